"""The curves of a training are a figure with everything in it, whatever the training had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from matplotlib.axes import Axes
from PIL import Image
from records import a_cell, a_record, a_training

from perfkit.report.curves import CURVES_NAME, draw_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[Axes]]:
    """The panels of every figure that is saved."""
    figures: list[list[Axes]] = []
    save = matplotlib.figure.Figure.savefig

    def note(figure: matplotlib.figure.Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", note)
    return figures


def curves(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return the points of every named curve of a panel."""
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()]  # type: ignore[union-attr]
        for line in axes.lines
    }


def test_the_figure_is_a_readable_image_in_the_run_folder(tmp_path: Path) -> None:
    path = draw_curves(a_training([0.5, 0.25]), tmp_path)
    assert path == tmp_path / CURVES_NAME
    with Image.open(path) as image:
        image.load()
        width, height = image.size
        assert width > 2 * height > 0
        assert len(image.convert("RGB").getcolors(maxcolors=10**6) or []) > 10
    assert list(path.parent.iterdir()) == [path]


def test_every_epoch_is_a_point_of_every_curve(tmp_path: Path, drawn: list[list[Axes]]) -> None:
    draw_curves(a_training([0.5, 0.25, 0.75]), tmp_path)
    ((losses, metrics, confusion),) = drawn
    found = curves(losses)
    assert found["training"] == [(1, 0.25), (2, 0.125), (3, 0.375)]
    assert found["validation"] == [(1, 0.5), (2, 0.25), (3, 0.75)]
    assert found["best epoch"][0][0] == 2
    found = curves(metrics)
    assert set(found) == {"accuracy", "AUC", "F1", "best epoch"}
    assert found["accuracy"] == [(1, 0.75), (2, 0.875), (3, 0.625)]
    assert [text.get_text() for text in confusion.texts] == ["9", "1", "4", "6"]
    assert confusion.get_title() == "test set, 20 samples"


def test_every_panel_names_its_axes(tmp_path: Path, drawn: list[list[Axes]]) -> None:
    draw_curves(a_training([0.5, 0.25]), tmp_path)
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in drawn[0]] == [
        ("epoch", "loss"),
        ("epoch", "validation metric (0 to 1)"),
        ("predicted class", "true class"),
    ]
    assert drawn[0][0].get_figure().get_suptitle() == "tiny:Tiny: serial, 1 thread, vectors"  # type: ignore[union-attr]


@pytest.mark.parametrize("losses", [[0.5, 0.25], [5.0, 4.0], [-3.0, -4.0]])
def test_no_loss_lies_outside_of_the_panel(
    losses: list[float], tmp_path: Path, drawn: list[list[Axes]]
) -> None:
    draw_curves(a_training(losses), tmp_path)
    low, high = drawn[0][0].get_ylim()
    found = curves(drawn[0][0])
    assert all(low < y < high for name in ("training", "validation") for _, y in found[name])
    assert low <= 0


@pytest.mark.parametrize(
    ("test", "panels"),
    [
        ({}, 3),
        ({"confusion": []}, 2),
        ({"metrics": {"mean absolute error": 3.0}, "confusion": []}, 2),
        ({"metrics": {}, "confusion": []}, 1),
        ({"end": "interrupted"}, 2),
    ],
)
def test_what_a_training_does_not_have_takes_no_room(
    test: dict[str, Any], panels: int, tmp_path: Path, drawn: list[list[Axes]]
) -> None:
    draw_curves(a_training([0.5], **test), tmp_path)
    assert len(drawn[0]) == panels


def test_a_metric_of_the_workloads_own_is_drawn_by_its_name(
    tmp_path: Path, drawn: list[list[Axes]]
) -> None:
    draw_curves(a_training([0.5, 7.0], metrics={"error": 3.0}, confusion=[]), tmp_path)
    assert curves(drawn[0][1])["error"] == [(1, 0.75), (2, -2.5)]
    low, high = drawn[0][1].get_ylim()
    assert low < -2.5
    assert high < 1.02


def test_a_metric_that_some_epochs_lack_has_the_points_of_the_others(
    tmp_path: Path, drawn: list[list[Axes]]
) -> None:
    record = a_training([0.5, 0.25, 0.5])
    assert record.training is not None
    middle = record.training.epochs[1]
    lacking = middle.model_copy(
        update={"validation": middle.validation.model_copy(update={"metrics": {"accuracy": 0.5}})}
    )
    record.training.epochs[1] = lacking
    draw_curves(record, tmp_path)
    assert [x for x, _ in curves(drawn[0][1])["AUC"]] == [1, 3]


def test_the_counts_of_many_classes_are_shades_alone(
    tmp_path: Path, drawn: list[list[Axes]]
) -> None:
    draw_curves(a_training([0.5], confusion=[[1] * 20] * 20), tmp_path)
    draw_curves(a_training([0.5], confusion=[[1] * 21] * 21), tmp_path)
    assert [len(axes[2].texts) for axes in drawn] == [400, 0]


def test_a_matrix_without_samples_is_drawn(tmp_path: Path, drawn: list[list[Axes]]) -> None:
    draw_curves(a_training([0.5], confusion=[[0, 0], [0, 0]]), tmp_path)
    assert len(drawn[0][2].texts) == 4


def test_a_run_that_is_no_training_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no training"):
        draw_curves(a_record(a_cell([[0.2]])), tmp_path)
