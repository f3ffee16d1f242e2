"""The curves of a training as one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.core.files import replacing
from perfkit.core.record import Record
from perfkit.core.training_result import Evaluation, TrainingResult
from perfkit.report.figures import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_NAME = "figures/curves.png"

# Okabe and Ito, Color Universal Design (2008): colour-blind readers can tell them apart.
TRAINING, VALIDATION, BEST = "#0072b2", "#d55e00", "#666666"
METRIC_COLOURS = {"accuracy": "#009e73", "auc": "#cc79a7", "f1": "#e69f00"}
METRIC_LABELS = {"accuracy": "accuracy", "auc": "AUC", "f1": "F1"}
CLASSES_COUNTED = 20  # a matrix of more is drawn in shades alone: it would be millions of numbers


def draw_curves(record: Record, folder: Path) -> Path:
    """Write loss, metrics and the confusion matrix of a training; return the file."""
    from matplotlib.figure import Figure

    training = record.training
    if training is None:
        raise ValueError(f"{record.name} is no training")
    has_metrics = bool(training.epochs[0].validation.metrics)
    test = training.test if training.test is not None and training.test.confusion else None
    panels = 1 + has_metrics + (test is not None)
    figure = Figure(figsize=(1 + 4.3 * panels, 3.9), layout="constrained")
    cell = record.cells[0]
    title = f"{record.config.workload}: {cell.label}, {record.data.name}"
    figure.suptitle(literal(title), fontsize=11)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    _losses(axes.pop(0), training)
    if has_metrics:
        _metrics(axes.pop(0), training)
    if test is not None:
        _confusion(axes.pop(0), test)
    path = folder / CURVES_NAME
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def _losses(axes: Axes, training: TrainingResult) -> None:
    numbers = [epoch.epoch for epoch in training.epochs]
    pairs = (
        ("training", TRAINING, [epoch.train_loss for epoch in training.epochs]),
        ("validation", VALIDATION, [epoch.validation.loss for epoch in training.epochs]),
    )
    for label, colour, losses in pairs:
        axes.plot(numbers, losses, "o-", ms=_marker(training), color=colour, label=label)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))  # a loss may be negative
    _finish(axes, training, "loss")


def _metrics(axes: Axes, training: TrainingResult) -> None:
    known = dict.fromkeys(name for epoch in training.epochs for name in epoch.validation.metrics)
    usual = [name for name in METRIC_COLOURS if name in known] or list(known)
    for name in usual:
        points = [
            (epoch.epoch, epoch.validation.metrics[name])
            for epoch in training.epochs
            if name in epoch.validation.metrics
        ]
        label, colour = METRIC_LABELS.get(name, name), METRIC_COLOURS.get(name)
        axes.plot(*zip(*points, strict=True), "o-", ms=_marker(training), color=colour, label=label)
    if usual != list(known):
        axes.set_ylim(0, 1.02)
    _finish(
        axes,
        training,
        "validation metric (0 to 1)" if usual != list(known) else "validation metric",
    )


def _marker(training: TrainingResult) -> float:
    """Return the size of a point: many must not hide each other."""
    return 4 if len(training.epochs) <= 20 else 2


def _finish(axes: Axes, training: TrainingResult, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(training.best_epoch, color=BEST, lw=1, ls=":", label="best epoch")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(0.5, training.epochs[-1].epoch + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _confusion(axes: Axes, test: Evaluation) -> None:
    counts = test.confusion
    most = max(map(max, counts))
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=most)
    if len(counts) <= CLASSES_COUNTED:
        for true, row in enumerate(counts):
            for called, count in enumerate(row):
                colour = "white" if count > most / 2 else "black"
                axes.text(called, true, f"{count:,}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"test set, {test.samples:,} samples", fontsize=10)
