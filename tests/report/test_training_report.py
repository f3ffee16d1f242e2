"""A training as text: what the model is worth, what it took, and how it ended."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from records import a_cell, a_record, a_training
from rich.console import Console

from perfkit.core.record import Record, write_record
from perfkit.report.progress import Silence, TrainingDisplay
from perfkit.report.training import epoch_words, print_training


def printed(record: Record, folder: Path, width: int = 100) -> str:
    write_record(record, folder)
    file = io.StringIO()
    print_training(folder, Console(file=file, highlight=False, markup=False, width=width))
    return file.getvalue()


def row(text: str, name: str) -> list[str]:
    """Return the cells of a row of a table."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return re.split(r"\s{2,}", line.strip())


def changed(record: Record, **changes: Any) -> Record:
    """Return the record with another training part."""
    assert record.training is not None
    return record.model_copy(update={"training": record.training.model_copy(update=changes)})


def test_the_best_model_stands_with_its_worth_on_validation_and_test_set(tmp_path: Path) -> None:
    text = printed(a_training([0.5, 0.25, 0.5]), tmp_path)
    assert "tiny:Tiny under serial on 1 CPU rank (training)" in text
    assert row(text, "model of epoch 2")[1:] == ["validation", "test"]
    assert row(text, "samples ")[1:] == ["20", "20"]
    assert row(text, "loss")[1:] == ["0.2500", "0.5000"]
    assert row(text, "accuracy")[1:] == ["0.8750", "0.7500"]
    assert row(text, "AUC")[1:] == ["0.8750", "0.8750"]
    assert re.search(r"^precision +0\.8750 +0\.5000$", text, re.MULTILINE)
    assert row(text, "recall")[1:] == ["0.8750", "0.2500"]
    assert row(text, "F1")[1:] == ["0.8750", "0.3750"]
    assert row(text, "truly 0")[1:] == ["9", "1"]
    assert row(text, "truly 1")[1:] == ["4", "6"]


def test_it_says_how_long_it_took_and_how_long_to_the_best_model(tmp_path: Path) -> None:
    text = printed(a_training([0.5, 0.25, 0.5]), tmp_path)
    assert (
        "18.0 s for 3 epochs, with validation, without start-up; 11.0 s to the best epoch (by "
        "validation loss)"
    ) in " ".join(text.split())
    assert row(text, "measured")[1] == "6 steps in 3 epochs"
    assert row(text, "speed")[1].startswith("20.0 samples/s in training, 3.00 s to the first step")


def test_early_stopping_and_interruption_are_told(tmp_path: Path) -> None:
    text = printed(a_training([0.5, 0.25, 0.5], end="early stopping"), tmp_path)
    assert "18.0 s for 3 epochs, stopped as none was better after epoch 2" in text
    text = printed(a_training([0.5, 0.25], end="interrupted"), tmp_path)
    assert "11.0 s for 2 epochs, INTERRUPTED" in text
    assert row(text, "model of epoch 2")[1:] == ["validation"]
    assert "called 0" not in text


def test_resumption_is_told(tmp_path: Path) -> None:
    record = changed(a_training([0.5, 0.25, 0.2]), resumed_after=[1, 2])
    assert row(printed(record, tmp_path), "resumed")[1] == "after epoch 1, 2, in new processes"


def test_a_metric_that_is_undefined_on_one_set_is_called_so(tmp_path: Path) -> None:
    record = a_training([0.5, 0.25], metrics={"accuracy": 0.5, "auc": 0.5})
    assert record.training is not None
    assert record.training.test is not None
    without = record.training.test.model_copy(update={"metrics": {"accuracy": 0.5}})
    text = printed(changed(record, test=without), tmp_path)
    assert row(text, "AUC")[1:] == ["0.8750", "undefined"]


def test_metrics_of_the_workloads_own_keep_their_names(tmp_path: Path) -> None:
    text = printed(a_training([0.5], metrics={"dice": 0.5}, confusion=[]), tmp_path)
    assert row(text, "dice")[1:] == ["0.7500", "0.5000"]
    assert "called" not in text


def test_a_confusion_matrix_that_no_terminal_holds_is_left_to_the_record(tmp_path: Path) -> None:
    text = printed(a_training([0.5], confusion=[[1] * 11] * 11), tmp_path)
    assert "truly" not in text


@pytest.mark.parametrize(
    ("precision", "changes", "told"),
    [
        ("fp32", {"tf32": None}, "fp32"),
        ("fp32", {"tf32": False}, "fp32 (TF32 off)"),
        ("fp32", {"tf32": True}, "fp32 (TF32 on)"),
        ("tf32", {"tf32": True}, "tf32 (TF32 on)"),
        (
            "bf16",
            {"product_dtypes": [{"torch.bfloat16": 5, "torch.float32": 1}]},
            "bf16, in which 5 of 6 products of the forward were seen to run",
        ),
    ],
)
def test_the_precision_stands_with_what_was_seen_of_it(
    precision: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    record = a_training([0.5], cell=a_cell([[0.2]], precision=precision, **changes))
    lines = printed(record, tmp_path).splitlines()
    assert f"{'precision':<13}  {told}" in lines[:8]


def test_of_fp16_the_skipped_steps_and_the_scale_are_told(tmp_path: Path) -> None:
    seen = [{"torch.float16": 4}]
    record = a_training([0.5, 0.4], cell=a_cell([[0.2]] * 2, precision="fp16", product_dtypes=seen))
    assert record.training is not None
    epochs = [
        epoch.model_copy(update={"skipped_steps": 2, "loss_scale": 4096.0})
        for epoch in record.training.epochs
    ]
    text = printed(changed(record, epochs=epochs), tmp_path)
    assert row(text, "fp16 ")[1] == "4 steps skipped by the gradient scaler, scale 4096"
    assert "fp16, in which 4 of 4 products of the forward were seen to run" in text


def test_it_says_where_everything_is(tmp_path: Path) -> None:
    text = printed(a_training([0.5]), tmp_path)
    for name in ("record.json", "metrics.csv", "figures/curves.png", "checkpoints/best.pt"):
        assert str(tmp_path / name) in text


def test_a_run_that_is_no_training_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no training"):
        printed(a_record(a_cell([[0.2]])), tmp_path)


def test_the_line_of_an_epoch_has_its_losses_and_what_tells_most() -> None:
    record = a_training([0.5])
    assert record.training is not None
    (epoch,) = record.training.epochs
    assert epoch_words(epoch) == (
        "epoch 1: training loss 0.2500, validation loss 0.5000, accuracy 0.750, AUC 0.750"
    )
    own = epoch.validation.model_copy(update={"metrics": {"dice": 0.5, "iou": 0.25}})
    assert epoch_words(epoch.model_copy(update={"validation": own})).endswith(
        "validation loss 0.5000, dice 0.500, iou 0.250"
    )
    bare = epoch.validation.model_copy(update={"metrics": {}})
    assert epoch_words(epoch.model_copy(update={"validation": bare})).endswith(
        "validation loss 0.5000"
    )


def test_off_a_terminal_every_epoch_is_a_line_with_the_time_left_and_steps_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = a_training([0.5, 0.25])
    assert record.training is not None
    first, second = record.training.epochs
    with TrainingDisplay() as progress:
        progress.start("loading")
        progress.expect(8)
        progress.start("epoch 1 of 2")
        progress.advance(4)
        progress.epoch(first, is_best=True, left_s=90.0)
        progress.advance(4)
        progress.epoch(second, is_best=False, left_s=0.0)
        progress.start("test set")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "perfkit: loading",
        f"perfkit: {epoch_words(first)}, the best so far; about 90.0 s left",
        f"perfkit: {epoch_words(second)}",
        "perfkit: test set",
    ]


def test_on_a_terminal_a_bar_counts_the_steps_without_a_thread_that_would_be_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import threading

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    before = threading.active_count()
    with TrainingDisplay() as progress:
        progress.expect(8)
        progress.start("epoch 1 of 2")
        progress.advance(3)
        assert threading.active_count() == before
    told = capsys.readouterr().err
    assert "3/8" in told
    assert "epoch 1 of 2" in told
    assert "left" in told


def test_the_ranks_other_than_0_say_nothing_of_their_epochs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = a_training([0.5])
    assert record.training is not None
    silence = Silence()
    silence.advance(3)
    silence.epoch(record.training.epochs[0], is_best=True, left_s=1.0)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
