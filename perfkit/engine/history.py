"""The epochs of a training as files for other tools: metrics.jsonl and metrics.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from perfkit.core.files import replacing
from perfkit.core.training_result import Epoch

JSONL, CSV = "metrics.jsonl", "metrics.csv"


def write_history(epochs: Sequence[Epoch], folder: Path) -> None:
    """Write one line an epoch into both files, each whole or not at all."""
    rows = [row_of(epoch) for epoch in epochs]
    with replacing(folder / JSONL) as temporary:
        temporary.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    with replacing(folder / CSV) as temporary, temporary.open("w", newline="") as file:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def row_of(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as one flat row; val_* is of the validation set."""
    validation = epoch.validation
    return {
        **epoch.model_dump(exclude={"validation"}),
        "val_samples": validation.samples,
        "val_loss": validation.loss,
        **{f"val_{name}": value for name, value in validation.metrics.items()},
    }
