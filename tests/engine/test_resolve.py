"""What the user left open is filled in, and what was said is kept."""

from __future__ import annotations

from typing import Any

import pytest

from perfkit.core.config import ProfileConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.resolve import Batch, batch_sizes, resolve, steps_of_round
from perfkit.strategies import STRATEGIES


def resolved(*, on_cuda: bool = False, cores: int = 8, ranks_here: int = 1, **flags: Any) -> Any:
    config = ProfileConfig(**{"model": "resnet18", **flags})  # which needs no CUDA library
    layout = STRATEGIES[config.strategy].layout(config)
    return resolve(config, layout, on_cuda=on_cuda, cores=cores, local_world_size=ranks_here)


@pytest.mark.parametrize(
    ("on_cuda", "local_batch", "image_size", "steps"), [(False, 4, 96, 12), (True, 32, 224, 120)]
)
def test_defaults_follow_the_device(
    on_cuda: bool, local_batch: int, image_size: int, steps: int
) -> None:
    config = resolved(on_cuda=on_cuda)
    assert (config.local_batch, config.image_size, config.steps) == (local_batch, image_size, steps)
    assert (config.gpus, config.ranks) == (1, 1)
    assert config.scaling == "weak"


def test_what_was_given_is_kept() -> None:
    given = {"local_batch": 7, "image_size": 64, "steps": 33, "threads": 3, "seed": 5}
    config = resolved(strategy="ddp", gpus=2, on_cuda=True, ranks_here=2, **given)
    assert config.model_dump(include=set(given)) == given
    assert (config.gpus, config.ranks) == (2, 2)


@pytest.mark.parametrize(
    ("strategy", "flags", "gpus", "ranks"),
    [
        ("ddp", {"ranks": 3}, 3, 3),
        ("model_parallel", {}, 2, 1),
        ("ddp_model_parallel", {}, 4, 2),
        ("ddp_model_parallel", {"gpus": 8, "ranks": 2}, 8, 2),
    ],
)
def test_devices_and_ranks_are_those_of_the_layout(
    strategy: str, flags: dict[str, int], gpus: int, ranks: int
) -> None:
    config = resolved(strategy=strategy, **flags)
    assert (config.gpus, config.ranks) == (gpus, ranks)


def test_a_global_batch_is_not_joined_by_a_local_one() -> None:
    config = resolved(global_batch=12)
    assert config.local_batch is None
    assert config.scaling == "strong"


@pytest.mark.parametrize(
    ("cores", "ranks_here", "threads"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1), (1, 1, 1)]
)
def test_the_ranks_of_a_host_share_its_cores(cores: int, ranks_here: int, threads: int) -> None:
    assert resolved(cores=cores, ranks_here=ranks_here).threads == threads


def test_a_resolved_config_stays_as_it_is_when_resolved_again() -> None:
    config = resolved(strategy="ddp", gpus=2)
    layout = STRATEGIES["ddp"].layout(config)
    assert resolve(config, layout, on_cuda=True, cores=99, local_world_size=1) == config


@pytest.mark.parametrize(("steps", "rounds"), [(3, 4), (12, 13)])
def test_a_round_without_a_step_is_refused(steps: int, rounds: int) -> None:
    with pytest.raises(PerfkitError, match=rf"--steps {steps}: fewer than --rounds {rounds}"):
        resolved(steps=steps, rounds=rounds)
    assert resolved(steps=rounds, rounds=rounds).steps == rounds


def test_default_steps_too_few_for_many_rounds_are_refused_too() -> None:
    with pytest.raises(PerfkitError, match="--steps 12: fewer than --rounds 20"):
        resolved(rounds=20)


@pytest.mark.parametrize(
    ("flags", "ranks", "expected"),
    [
        ({"local_batch": 4}, 1, Batch(4, 4)),
        ({"local_batch": 4}, 3, Batch(4, 12)),
        ({"global_batch": 12}, 1, Batch(12, 12)),
        ({"global_batch": 12}, 3, Batch(4, 12)),
        ({"global_batch": 4}, 2, Batch(2, 4)),
    ],
)
def test_batch_sizes_of_both_kinds_of_scaling(
    flags: dict[str, int], ranks: int, expected: Batch
) -> None:
    assert batch_sizes(ProfileConfig(**flags), ranks) == expected


@pytest.mark.parametrize(("global_batch", "ranks"), [(10, 3), (2, 2), (7, 4)])
def test_a_global_batch_that_leaves_ranks_unequal_or_with_one_sample_is_refused(
    global_batch: int, ranks: int
) -> None:
    with pytest.raises(PerfkitError) as error:
        batch_sizes(ProfileConfig(global_batch=global_batch), ranks)
    assert f"--global-batch {global_batch} over {ranks} ranks" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("steps", "rounds"), [(12, 4), (10, 3), (11, 4), (4, 4), (121, 7)])
def test_rounds_share_all_steps_as_evenly_as_they_can(steps: int, rounds: int) -> None:
    shares = [steps_of_round(steps, rounds, index) for index in range(rounds)]
    assert sum(shares) == steps
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1
