"""Filling in what the user left open, once it is known where the run takes place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from perfkit.core.config import MIN_LOCAL_BATCH, ProfileConfig, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.preprocessing import settle_preprocess
from perfkit.strategies.base import Layout

Config = TypeVar("Config", bound=RunConfig)

CPU_DEFAULTS = {"local_batch": 4, "image_size": 96, "steps": 12}
CUDA_DEFAULTS = {"local_batch": 32, "image_size": 224, "steps": 120}


@dataclass(frozen=True)
class Batch:
    """Samples a step: of one rank, and of all."""

    local: int
    whole: int


def resolve(
    config: Config, layout: Layout, *, on_cuda: bool, cores: int, local_world_size: int
) -> Config:
    """Return ``config`` with every default that depends on the device or the host filled in."""
    defaults = CUDA_DEFAULTS if on_cuda else CPU_DEFAULTS
    filled: dict[str, Any] = {"gpus": layout.devices, "ranks": layout.ranks}
    filled["preprocess"] = settle_preprocess(config, on_cuda=on_cuda)
    if config.image_size is None:
        filled["image_size"] = defaults["image_size"]
    if config.scaling == "weak" and config.local_batch is None:
        filled["local_batch"] = defaults["local_batch"]
    if config.threads is None:
        filled["threads"] = max(cores // local_world_size, 1)
    if isinstance(config, ProfileConfig):
        filled["steps"] = config.steps or defaults["steps"]
        if filled["steps"] < config.rounds:
            raise PerfkitError(
                f"--steps {filled['steps']}: fewer than --rounds {config.rounds}; each round needs "
                "a step"
            )
    return config.model_copy(update=filled)


def batch_sizes(config: RunConfig, ranks: int) -> Batch:
    """Return the samples a step of a resolved config; PerfkitError where ranks get too few."""
    if config.global_batch is None:
        local = config.local_batch or 0
        return Batch(local=local, whole=local * ranks)
    local, rest = divmod(config.global_batch, ranks)
    if rest or local < MIN_LOCAL_BATCH:
        raise PerfkitError(
            f"--global-batch {config.global_batch} over {ranks} ranks: each needs the same whole "
            f"number of samples, at least {MIN_LOCAL_BATCH}"
        )
    return Batch(local=local, whole=config.global_batch)


def steps_of_round(steps: int, rounds: int, round_index: int) -> int:
    """Return how many of ``steps`` fall into one round: they differ by at most one."""
    return steps // rounds + (round_index < steps % rounds)
