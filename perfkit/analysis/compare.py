"""Whether two runs may be divided by each other, and what comes out."""

from __future__ import annotations

from perfkit.analysis import speed
from perfkit.core.record import Record


def work(record: Record) -> dict[str, object]:
    """Return what a run did and on what, by its name: the same in runs that may be compared.

    How it was done is not in it: strategy, devices, threads, workers, precision, operators.
    """
    cell = record.cells[0]
    return {
        "hardware": record.environment.hardware,
        "kind of device": speed.is_on_cuda(cell),
        "kind of run": record.kind,
        "workload": record.config.workload,
        "model": record.parameters,
        "data": record.data.name,
        "image size": record.config.image_size,
        # Where it runs is no other work; where nobody says, it may have been anywhere.
        "preprocessing": None if cell.preprocess is None else cell.preprocess != "none",
        "scaling mode": record.scaling,
        **(
            {"global batch": cell.global_batch}
            if record.scaling == "strong"
            else {"local batch": cell.local_batch}
        ),
    }


def why_no_ratio(record: Record, reference: Record) -> str | None:
    """Return why a speedup of ``record`` over ``reference`` would mean nothing, or None.

    Across hardware, workloads, image sizes or scaling modes a quotient exists but is no speedup.
    """
    other = work(reference)
    for name, mine in work(record).items():
        unknown = name == "preprocessing" and None in (mine, other[name])
        if not unknown and mine != other[name]:
            return f"other {name}"
    return None


def throughput_ratio(record: Record, reference: Record) -> float:
    """Return samples/s of the strategy over samples/s of the reference's strategy.

    A point estimate: two runs share no rounds, and each is one process.
    """
    return speed.samples_per_s(record.cells[0]) / speed.samples_per_s(reference.cells[0])
