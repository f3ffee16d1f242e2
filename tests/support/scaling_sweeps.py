"""Rows of sweeps over ranks and threads, of known costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sweep_records import a_sweep, one_process

from perfkit.analysis.sweep import Row, rows
from perfkit.core.sweep import Options

MACHINE = [1.0, 1.3, 0.8, 1.1]  # what all cells meet in a round alike
NOISE = [0.98, 1.01, 1.02, 0.99]
GLOBAL_BATCH = 8


class Measured(NamedTuple):
    """A cell, and the seconds that one of its samples takes on the machine at its usual speed."""

    sample_s: float
    options: Options
    facts: dict[str, Any]


def serial(sample_s: float, threads: int = 1, **facts: Any) -> Measured:
    return Measured(
        sample_s, {"threads": threads, **_options(facts)}, {"threads": threads, **facts}
    )


def parallel(sample_s: float, ranks: int, threads: int = 1, **facts: Any) -> Measured:
    options = {"strategy": "ddp", "gpus": ranks, "threads": threads, **_options(facts)}
    layout = {"ranks": ranks, "threads": threads, "devices": [["cpu"]] * ranks}
    return Measured(sample_s, options, {**layout, "ceiling": float(ranks), **facts})


def _options(facts: dict[str, Any]) -> Options:
    """Return those of a cell's facts that are asked for by an option."""
    return {name: facts[name] for name in ("workers", "precision", "ops") if name in facts}


def measured(cells: Sequence[Measured], scaling: Literal["strong", "weak"] = "strong") -> list[Row]:
    """Return rows of these cells: of a global batch of 8, or of a batch of 4 a rank."""
    sweep = a_sweep(*(cell.options for cell in cells), rounds=len(MACHINE))
    records = {}
    for index, cell in enumerate(cells, 1):  # cell 0 of the sweep is the base, not measured here
        ranks = cell.facts.get("ranks", 1)
        batch = GLOBAL_BATCH if scaling == "strong" else 4 * ranks
        facts = {"local_batch": batch // ranks, "global_batch": batch, **cell.facts}
        records[index] = {
            number: one_process(
                sweep, index, cell.sample_s * batch * machine * NOISE[(number + index) % 4], **facts
            ).model_copy(update={"scaling": scaling})
            for number, machine in enumerate(MACHINE)
        }
    return rows(sweep, records)
