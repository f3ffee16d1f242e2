"""Which stage goes on which device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from time import perf_counter

import torch
import torch.distributed as dist

from perfkit.core.config import RunConfig
from perfkit.strategies.base import Cut, Mesh

COST_REPEATS = 3


@dataclass(frozen=True)
class Placement:
    """Device index of every stage, and the stage costs (seconds) that led to it."""

    devices: tuple[int, ...]
    stage_cost_s: tuple[float, ...] = ()

    @property
    def crossings(self) -> int:
        """Times an activation changes device in one forward."""
        return sum(a != b for a, b in pairwise(self.devices))


def choose_placement(cut: Cut, mesh: Mesh, config: RunConfig) -> Placement:
    """Return the placement that ``config`` asks for; the same on every rank."""
    count = len(mesh.devices)
    if config.placement == "interleaved":
        return Placement(interleaved(len(cut.stages), count))
    placements: list[Placement | None] = [None]
    if mesh.rank == 0:
        costs = measure_stage_costs(cut, mesh.first_device)
        placements = [Placement(balanced(costs, count), tuple(costs))]
    if mesh.control is not None:
        # Ranks would measure slightly different costs and might cut at different places.
        dist.broadcast_object_list(placements, src=0, group=mesh.control)
    (placement,) = placements
    assert placement is not None
    return placement


def interleaved(stages: int, devices: int) -> tuple[int, ...]:
    """Stages in turn over the devices, the placement that the glaucoma system published."""
    return tuple(stage % devices for stage in range(stages))


def balanced(costs: Sequence[float], devices: int) -> tuple[int, ...]:
    """Contiguous runs of stages, one a device, whose dearest run is as cheap as possible."""

    @cache
    def best(start: int, runs: int) -> tuple[float, tuple[int, ...]]:
        """Return the cost of the dearest run and the cuts of the stages from ``start`` on."""
        if runs == 1:
            return sum(costs[start:]), ()
        options = []
        for cut in range(start + 1, len(costs) - runs + 2):
            dearest, cuts = best(cut, runs - 1)
            options.append((max(sum(costs[start:cut]), dearest), (cut, *cuts)))
        return min(options)

    _, cuts = best(0, devices)
    return tuple(sum(stage >= cut for cut in cuts) for stage in range(len(costs)))


def measure_stage_costs(cut: Cut, device: torch.device) -> list[float]:
    """Return the seconds of forward and backward of each stage on ``device``, best of a few.

    In eval mode, so that no running statistic changes and no random number is drawn.
    """
    costs: list[float] = []
    x = cut.sample.to(device)
    for stage in cut.stages:
        was_training = stage.training
        stage.to(device).eval()
        parameters = [p for p in stage.parameters() if p.requires_grad]
        times = []
        for _ in range(COST_REPEATS):
            # The first stage gets no gradient of its input, as in training.
            entry = x.detach().requires_grad_(bool(costs))
            passed = entry.clone()  # a stage may write to what it gets, but not to a leaf
            started = _now(device)
            out = stage(passed)
            wanted = [*parameters, *([entry] if entry.requires_grad else [])]
            if wanted:
                torch.autograd.grad(out.float().sum(), wanted, allow_unused=True)
            times.append(_now(device) - started)
        costs.append(min(times))
        x = out.detach()
        stage.train(was_training)
        stage.cpu()  # the whole model need not fit on one device
    return costs


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
