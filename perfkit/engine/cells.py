"""The cells of one comparison: which there are, and what each has measured so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from perfkit.core.config import RunConfig
from perfkit.core.record import FOREIGN_LOAD_BOUND, Block, Cell, HostLoad, Memory, Role
from perfkit.engine.cell import RankFacts
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


def baseline_configs(
    config: RunConfig, *, cores: int, on_cuda: bool, one_host: bool
) -> tuple[list[RunConfig], list[str]]:
    """Return the serial configs to measure a resolved config beside, and notices about them.

    On a CPU there are two: as many threads as one rank has (what the strategy gains per rank),
    and as many as all ranks have (what the same cores do without it). On one device there is
    nothing to compare.
    """
    if config.baseline == "none" or config.gpus == 1:
        return [], []
    per_rank = config.threads or 1
    total = per_rank * (config.ranks or 1)
    serial = config.model_copy(
        update={"strategy": "serial", "gpus": 1, "ranks": 1, "placement": None}
    )
    if on_cuda or total == per_rank:
        return [serial], []
    if not one_host or cores < total:
        where = "over several hosts" if not one_host else f"of which rank 0 may use {cores}"
        return [serial], [
            f"no baseline on equal total cores: the ranks have {total} threads, {where}"
        ]
    return [serial, serial.model_copy(update={"threads": total})], []


def label_of(config: RunConfig, device: Device) -> str:
    """Return the name of a cell in tables."""
    count = config.threads or 1
    parts = [f"{config.ranks} ranks"] if (config.ranks or 1) > 1 else []
    if device.torch_device.type != "cuda":
        parts.append(f"{count} thread{'s' if count > 1 else ''}")
    return ", ".join([config.strategy, *([" x ".join(parts)] if parts else [])])


def late_taints(cells: list[CellLog]) -> list[str]:
    """Return what became doubtful while measuring."""
    taints = []
    timed = sum(len(block.steps) for block in cells[0].blocks if block.rank == 0)
    if timed < MIN_STEPS:
        taints.append(f"{timed} timed steps are too few to trust (at least {MIN_STEPS})")
    if any(step.loss is None for block in cells[0].blocks for step in block.steps):
        taints.append("the loss was not finite: this training does not train")
    for log in cells:
        shares = [load.foreign_cpu_share for load in log.load if load.foreign_cpu_share is not None]
        if shares and max(shares) > FOREIGN_LOAD_BOUND:
            taints.append(
                f"other processes took up to {max(shares):.0%} of this host's CPU time beside "
                f"{log.label}"
            )
    return taints
