"""The cells of one comparison: which there are, and what each has measured so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from perfkit.core.config import ProfileConfig, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import (
    FOREIGN_LOAD,
    FOREIGN_LOAD_BOUND,
    Block,
    Cell,
    HostLoad,
    Memory,
    Record,
    Role,
)
from perfkit.engine.cell import RankFacts
from perfkit.engine.preprocessing import preprocesses
from perfkit.engine.resolve import Batch, batch_sizes
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Device

MIN_STEPS = 10  # fewer timed steps are a taint

Turn = Callable[[int, int], list[Block]]  # (round, steps) -> the blocks of every rank, at rank 0


@dataclass
class CellLog:
    """One cell and its samples so far; ``as_cell`` is its part of the Record."""

    role: Role
    label: str
    config: RunConfig
    backend: str | None
    turn: Turn
    facts: list[RankFacts]
    warmup_step_s: list[float] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    load: list[HostLoad] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    def as_cell(self) -> Cell:
        """Return what is known so far."""
        strategy = STRATEGIES[self.config.strategy]
        layout = strategy.layout(self.config)
        batch: Batch = batch_sizes(self.config, layout.ranks)
        first = self.facts[0]
        return Cell(
            role=self.role,
            label=self.label,
            strategy=self.config.strategy,
            ranks=layout.ranks,
            devices_per_rank=layout.devices_per_rank,
            devices=[facts.devices for facts in self.facts],
            backend=self.backend,
            threads=self.config.threads or 1,
            workers=self.config.workers,
            preprocess=self.config.preprocess,
            ops=self.config.ops if preprocesses(self.config) or first.has_squeeze_excite else None,
            implementation=[facts.implementation for facts in self.facts if facts.implementation],
            stored_s=first.stored_s,
            squeeze_excites=[
                facts.squeeze_excites for facts in self.facts if facts.squeeze_excites
            ],
            precision=self.config.precision,
            product_dtypes=[facts.product_dtypes for facts in self.facts],
            tf32=first.tf32,
            local_batch=batch.local,
            global_batch=batch.whole,
            ceiling=strategy.ceiling(layout),
            time_to_first_step_s=[facts.time_to_first_step_s for facts in self.facts],
            warmup_step_s=self.warmup_step_s,
            observed=[seen for facts in self.facts for seen in facts.observed],
            placement=first.placement,
            stage_cost_s=first.stage_cost_s,
            crossings=first.crossings,
            blocks=self.blocks,
            load=self.load,
            memory=self.memory,
        )


class Beside(NamedTuple):
    """What to measure beside a run."""

    role: Role
    config: ProfileConfig
    difference: str = ""  # of a variant: "workers=1"


def configs_beside(
    config: ProfileConfig, *, cores: int, on_cuda: bool, one_host: bool
) -> tuple[list[Beside], list[str]]:
    """Return what to measure a resolved config beside, and notices about it.

    Of serial training there are two on a CPU: as many threads as one rank has (what the strategy
    gains per rank), and as many as all ranks have (what the same cores do without it). On one
    device there is none.
    """
    try:
        found_variants = config.variants()
    except ValueError as error:  # what was left open came out as what the variant asks for
        raise PerfkitError(f"{error}") from None
    variants = [Beside("variant", changed, spec) for spec, changed in found_variants.items()]
    if "serial" not in config.baseline or config.gpus == 1:
        return variants, []
    per_rank = config.threads or 1
    total = per_rank * (config.ranks or 1)
    serial = config.model_copy(
        update={"strategy": "serial", "gpus": 1, "ranks": 1, "placement": None}
    )
    notices = []
    found = [Beside("baseline", serial)]
    if not on_cuda and total > per_rank:
        if one_host and cores >= total:
            found.append(Beside("baseline", serial.model_copy(update={"threads": total})))
        else:
            where = f"of which rank 0 may use {cores}" if one_host else "over several hosts"
            notices = [f"no baseline on equal total cores: the ranks have {total} threads, {where}"]
    return [*found, *variants], notices


def label_of(config: RunConfig, device: Device) -> str:
    """Return the name of a cell in tables."""
    count = config.threads or 1
    parts = [f"{config.ranks} ranks"] if (config.ranks or 1) > 1 else []
    if device.torch_device.type != "cuda":
        parts.append(f"{count} thread{'s' if count > 1 else ''}")
    precision = [config.precision] if config.precision != "fp32" else []
    return ", ".join([config.strategy, *([" x ".join(parts)] if parts else []), *precision])


def differences(record: Record, after: Cell, hardware: str) -> list[str]:
    """Return the conditions under which a training goes on other than those of its Record."""
    before = record.cells[0]
    conditions: dict[str, tuple[object, object]] = {
        "hardware": (record.environment.hardware, hardware),
        "devices": (before.devices[0], after.devices[0]),
        "threads": (before.threads, after.threads),
        "loader workers": (before.workers, after.workers),
        "preprocessing": (before.preprocess, after.preprocess),
        "operators": (before.ops, after.ops),
    }
    return [f"{name} {was} then {now}" for name, (was, now) in conditions.items() if was != now]


def late_taints(cells: list[CellLog]) -> list[str]:
    """Return what became doubtful while measuring."""
    taints = []
    timed = sum(len(block.steps) for block in cells[0].blocks if block.rank == 0)
    if timed < MIN_STEPS:
        taints.append(f"{timed} timed steps are too few to trust (at least {MIN_STEPS})")
    if any(s.loss is None and not s.skipped for block in cells[0].blocks for s in block.steps):
        taints.append("the loss was not finite: this training does not train")
    for log in cells:
        skipped = sum(step.skipped for block in log.blocks for step in block.steps)
        if skipped:
            taints.append(
                f"the gradient scaler skipped {skipped} timed steps of {log.label}: they are "
                "cheaper than others"
            )
        taints += load_taints(log.label, log.load)
    return taints


def load_taints(label: str, load: Sequence[HostLoad]) -> list[str]:
    """Return whether other processes kept the host busy beside a cell."""
    shares = [part.foreign_cpu_share for part in load if part.foreign_cpu_share is not None]
    if not shares or max(shares) <= FOREIGN_LOAD_BOUND:
        return []
    return [f"{FOREIGN_LOAD} up to {max(shares):.0%} of this host's CPU time beside {label}"]
