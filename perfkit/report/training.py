"""A training as text: its epochs, what the best model is worth, and what it took."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from perfkit.analysis import speed
from perfkit.analysis.training import best_epoch, time_to_best_s, time_to_train_s
from perfkit.core.record import RECORD_NAME, Record, read_record
from perfkit.core.training_result import Epoch, Evaluation, TrainingResult
from perfkit.report.console import Line, borderless_table, make_console, print_lines, print_path
from perfkit.report.curves import CURVES_NAME
from perfkit.report.terminal import (
    conditions,
    peak,
    phases_table,
    title,
)
from perfkit.report.words import count_of, duration, significant

METRIC_NAMES = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
SHORT = ("accuracy", "auc")  # in the line of an epoch
CLASSES_SHOWN = 10


def print_training(folder: Path, console: Console | None = None) -> None:
    """Print the training in ``folder``."""
    record = read_record(folder)
    training = record.training
    if training is None:
        raise ValueError(f"{folder} holds no training")
    console = console or make_console()
    console.print()
    console.print(title(record), style="bold")
    print_lines(conditions(record), console)
    console.print()
    console.print(worth_table(training))
    for evaluation in (training.test,) if training.test is not None else ():
        if 0 < len(evaluation.confusion) <= CLASSES_SHOWN:
            console.print()
            console.print(confusion_table(evaluation))
    console.print()
    console.print(phases_table(record))
    console.print()
    print_lines(findings(record, training), console)
    print_lines([("notice", taint) for taint in record.taints], console, style="yellow")
    console.print()
    print_path("record", folder / RECORD_NAME, console)
    print_path("epochs", folder / "metrics.csv", console)
    print_path("curves", folder / CURVES_NAME, console)
    print_path("best model", folder / "checkpoints" / "best.pt", console)


def worth_table(training: TrainingResult) -> Table:
    """Return loss and metrics of the best epoch's model on the validation and the test set."""
    best = best_epoch(training)
    evaluations = [best.validation, *([training.test] if training.test is not None else [])]
    table = borderless_table()
    table.add_column(f"model of epoch {best.epoch}", no_wrap=True)
    for evaluation in evaluations:
        name = {"val": "validation", "test": "test"}[evaluation.split]
        table.add_column(name, justify="right", min_width=10)
    table.add_row("samples", *(f"{evaluation.samples:,}" for evaluation in evaluations))
    table.add_row("loss", *(f"{evaluation.loss:.4f}" for evaluation in evaluations))
    for name in dict.fromkeys(name for found in evaluations for name in found.metrics):
        values = (evaluation.metrics.get(name) for evaluation in evaluations)
        told = ("undefined" if value is None else f"{value:.4f}" for value in values)
        table.add_row(METRIC_NAMES.get(name, name), *told)
    return table


def confusion_table(evaluation: Evaluation) -> Table:
    """Return the confusion matrix: a row for each true class."""
    table = borderless_table()
    table.add_column(f"{evaluation.split} samples", no_wrap=True)
    for index in range(len(evaluation.confusion)):
        table.add_column(f"called {index}", justify="right")
    for index, row in enumerate(evaluation.confusion):
        table.add_row(f"truly {index}", *(f"{count:,}" for count in row))
    return table


def findings(record: Record, training: TrainingResult) -> list[Line]:
    """Return what the training took, a sentence each."""
    cell, count = record.cells[0], len(training.epochs)
    ends = {
        "all epochs": count_of(count, "epoch"),
        "early stopping": f"{count_of(count, 'epoch')}, stopped as none was better after "
        f"epoch {training.best_epoch}",
        "interrupted": f"{count_of(count, 'epoch')}, INTERRUPTED",
    }
    taken = duration(time_to_train_s(training))
    monitor = METRIC_NAMES.get(training.monitor, training.monitor)
    to_best = duration(time_to_best_s(training))
    lines = [
        (
            "time to train",
            f"{taken} for {ends[training.end]}, with validation, without start-up; {to_best} to "
            f"the best epoch (by validation {monitor})",
        ),
        (
            "speed",
            f"{significant(speed.samples_per_s(cell))} samples/s in training, "
            f"{duration(max(cell.time_to_first_step_s))} to the first step"
            f"{', correctness gate included' if record.gate is not None else ''}, "
            f"peak memory per rank {peak(cell)}",
        ),
    ]
    if training.resumed_after:
        epochs = ", ".join(map(str, training.resumed_after))
        lines.append(("resumed", f"after epoch {epochs}, in new processes"))
    skipped = sum(epoch.skipped_steps for epoch in training.epochs)
    if cell.precision == "fp16":
        scale = training.epochs[-1].loss_scale
        lines.append(("fp16", f"{skipped} steps skipped by the gradient scaler, scale {scale:g}"))
    return lines


def epoch_words(epoch: Epoch) -> str:
    """Return what an epoch came to, in one line."""
    validation = epoch.validation
    metrics = [
        f"{METRIC_NAMES[name]} {validation.metrics[name]:.3f}"
        for name in SHORT
        if name in validation.metrics
    ] or [f"{name} {value:.3f}" for name, value in validation.metrics.items()]
    parts = [f"validation loss {validation.loss:.4f}", *metrics]
    return f"epoch {epoch.epoch}: training loss {epoch.train_loss:.4f}, {', '.join(parts)}"
