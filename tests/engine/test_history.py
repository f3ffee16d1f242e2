"""The epochs as metrics.jsonl and metrics.csv: one line an epoch, whole at any time."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from perfkit.core.training_result import Epoch, Evaluation
from perfkit.engine.history import write_history


def epoch(number: int, metrics: dict[str, float], **changes: Any) -> Epoch:
    validation = Evaluation(
        split="val", samples=13, loss=0.5 / number, metrics=metrics, confusion=[[6, 1], [2, 4]]
    )
    facts = {
        "epoch": number,
        "train_loss": 1.0 / number,
        "learning_rate": 0.1,
        "train_s": 2.0,
        "evaluate_s": 0.25,
        "skipped_steps": 0,
        "loss_scale": None,
        "validation": validation,
    }
    return Epoch.model_validate(facts | changes)


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the rows of both files."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    with (folder / "metrics.csv").open(newline="") as file:
        return [json.loads(line) for line in lines], list(csv.DictReader(file))


def test_both_files_have_a_flat_row_for_every_epoch(tmp_path: Path) -> None:
    epochs = [epoch(1, {"accuracy": 0.625}), epoch(2, {"accuracy": 0.75}, loss_scale=1024.0)]
    write_history(epochs, tmp_path)
    objects, rows = read(tmp_path)
    assert objects[1] == {
        "epoch": 2,
        "train_loss": 0.5,
        "learning_rate": 0.1,
        "train_s": 2.0,
        "evaluate_s": 0.25,
        "skipped_steps": 0,
        "loss_scale": 1024.0,
        "val_samples": 13,
        "val_loss": 0.25,
        "val_accuracy": 0.75,
    }
    assert len(objects) == len(rows) == 2
    for found, row in zip(objects, rows, strict=True):
        told = {name: "" if value is None else str(value) for name, value in found.items()}
        assert row == told


def test_a_metric_that_is_not_defined_in_every_epoch_has_a_column_all_the_same(
    tmp_path: Path,
) -> None:
    write_history([epoch(1, {"f1": 0.5}), epoch(2, {"auc": 0.9, "f1": 0.5})], tmp_path)
    objects, rows = read(tmp_path)
    assert "val_auc" not in objects[0]
    assert [row["val_auc"] for row in rows] == ["", "0.9"]
    assert [row["val_f1"] for row in rows] == ["0.5", "0.5"]


def test_a_name_with_a_comma_stays_one_column(tmp_path: Path) -> None:
    write_history([epoch(1, {"error, absolute": 0.5})], tmp_path)
    assert read(tmp_path)[1][0]["val_error, absolute"] == "0.5"


def test_numbers_lose_nothing_in_either_file(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    write_history([epoch(1, {"accuracy": value}, train_loss=1e-300 / 3)], tmp_path)
    objects, rows = read(tmp_path)
    assert objects[0]["val_accuracy"] == float(rows[0]["val_accuracy"]) == value
    assert objects[0]["train_loss"] == float(rows[0]["train_loss"]) == 1e-300 / 3


def test_writing_again_replaces_both_and_leaves_nothing_else(tmp_path: Path) -> None:
    epochs = [epoch(number, {}) for number in (1, 2, 3)]
    write_history(epochs, tmp_path)
    write_history(epochs[:2], tmp_path)
    assert [len(rows) for rows in read(tmp_path)] == [2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "metrics.csv"}


@pytest.mark.parametrize(
    ("owner", "method", "stays"),
    [(Path, "write_bytes", "metrics.jsonl"), (csv.DictWriter, "writerows", "metrics.csv")],
)
def test_a_file_that_cannot_be_written_stays_as_it_was(
    owner: type, method: str, stays: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_history([epoch(1, {})], tmp_path)
    before = (tmp_path / stays).read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, method, fail)
    with pytest.raises(OSError, match="No space left"):
        write_history([epoch(1, {}), epoch(2, {})], tmp_path)
    assert (tmp_path / stays).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "metrics.csv"}
