"""Whether two runs may be divided by each other, and what comes out."""

from __future__ import annotations

from perfkit.analysis import speed
from perfkit.core.record import Cell, Record


def why_no_ratio(record: Record, reference: Record) -> str | None:
    """Return why a speedup of ``record`` over ``reference`` would mean nothing, or None.

    Across hardware, workloads, image sizes or scaling modes a quotient exists but is no speedup.
    """
    mine, other = record.cells[0], reference.cells[0]
    reasons = [
        (record.environment.hardware != reference.environment.hardware, "other hardware"),
        (speed.is_on_cuda(mine) != speed.is_on_cuda(other), "other kind of device"),
        (record.kind != reference.kind, f"a {record.kind} beside a {reference.kind}"),
        (record.config.workload != reference.config.workload, "other workload"),
        (record.parameters != reference.parameters, "other model"),
        (record.data.name != reference.data.name, "other data"),
        (record.config.image_size != reference.config.image_size, "other image size"),
        (_skips_preprocessing(mine, other), "other preprocessing"),
        (record.scaling != reference.scaling, "other scaling mode"),
        (
            record.scaling == "strong" and mine.global_batch != other.global_batch,
            "other global batch",
        ),
        (record.scaling == "weak" and mine.local_batch != other.local_batch, "other local batch"),
    ]
    return next((reason for differs, reason in reasons if differs), None)


def throughput_ratio(record: Record, reference: Record) -> float:
    """Return samples/s of the strategy over samples/s of the reference's strategy.

    A point estimate: two runs share no rounds, and each is one process.
    """
    return speed.samples_per_s(record.cells[0]) / speed.samples_per_s(reference.cells[0])


def _skips_preprocessing(mine: Cell, other: Cell) -> bool:
    """Whether one of the two leaves out the preprocessing; where it runs, is no other work."""
    known = {mine.preprocess, other.preprocess}
    return "none" in known and None not in known and len(known) > 1
