"""Processes x devices of every strategy, and what it refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Layout


def layout_of(strategy: str, **flags: Any) -> Layout:
    return STRATEGIES[strategy].layout(RunConfig(strategy=strategy, **flags))  # type: ignore[index]


@pytest.mark.parametrize(
    ("strategy", "flags", "ranks", "devices_per_rank"),
    [
        ("serial", {}, 1, 1),
        ("serial", {"gpus": 1, "ranks": 1}, 1, 1),
        ("ddp", {}, 1, 1),
        ("ddp", {"gpus": 4}, 4, 1),
        ("ddp", {"ranks": 3}, 3, 1),
        ("ddp", {"gpus": 2, "ranks": 2}, 2, 1),
        ("model_parallel", {}, 1, 2),
        ("model_parallel", {"gpus": 5, "ranks": 1, "placement": "interleaved"}, 1, 5),
        ("ddp_model_parallel", {}, 2, 2),
        ("ddp_model_parallel", {"gpus": 8}, 4, 2),
        ("ddp_model_parallel", {"gpus": 8, "ranks": 2}, 2, 4),
        ("ddp_model_parallel", {"ranks": 3}, 3, 2),
        ("ddp_model_parallel", {"gpus": 6, "placement": "contiguous"}, 3, 2),
    ],
)
def test_the_layout_is_the_documented_one(
    strategy: str, flags: dict[str, Any], ranks: int, devices_per_rank: int
) -> None:
    assert layout_of(strategy, **flags) == Layout(ranks, devices_per_rank)


@pytest.mark.parametrize(
    ("strategy", "layout", "ceiling"),
    [
        ("serial", Layout(1), 1.0),
        ("ddp", Layout(4), 4.0),
        ("model_parallel", Layout(1, 3), 1.0),
        ("ddp_model_parallel", Layout(2, 4), 2.0),
    ],
)
def test_the_ceiling_counts_what_works_at_the_same_time(
    strategy: str, layout: Layout, ceiling: float
) -> None:
    assert STRATEGIES[strategy].ceiling(layout) == ceiling  # type: ignore[index]


@pytest.mark.parametrize(
    ("strategy", "flags", "named"),
    [
        ("serial", {"gpus": 2}, "--gpus 2"),
        ("serial", {"ranks": 2}, "--ranks 2"),
        ("serial", {"placement": "contiguous"}, "--placement contiguous"),
        ("ddp", {"gpus": 4, "ranks": 2}, "--ranks 2"),
        ("ddp", {"gpus": 2, "placement": "interleaved"}, "--placement interleaved"),
        ("model_parallel", {"gpus": 1}, "--gpus 1"),
        ("model_parallel", {"gpus": 2, "ranks": 2}, "--ranks 2"),
        ("ddp_model_parallel", {"ranks": 1}, "--ranks 1"),
        ("ddp_model_parallel", {"gpus": 4, "ranks": 1}, "--ranks 1"),
        ("ddp_model_parallel", {"gpus": 1}, "--gpus 1"),
        ("ddp_model_parallel", {"gpus": 2}, "--gpus 2"),
        ("ddp_model_parallel", {"gpus": 5}, "--gpus 5"),
        ("ddp_model_parallel", {"gpus": 8, "ranks": 3}, "--gpus 8"),
        ("ddp_model_parallel", {"gpus": 4, "ranks": 4}, "--gpus 4"),
    ],
)
def test_an_impossible_combination_is_refused_in_one_line_that_names_the_option(
    strategy: str, flags: dict[str, Any], named: str
) -> None:
    with pytest.raises(PerfkitError) as refusal:
        layout_of(strategy, **flags)
    message = str(refusal.value)
    assert named in message
    assert f"--strategy {strategy}" in message
    assert "\n" not in message


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_accepted_has_as_many_devices_and_ranks_as_were_asked_for(strategy: str) -> None:
    accepted, refusals = 0, []
    for gpus, ranks in product([None, *range(1, 9)], repeat=2):
        try:
            layout = layout_of(strategy, gpus=gpus, ranks=ranks)
        except PerfkitError as refusal:
            refusals.append(str(refusal))
            continue
        accepted += 1
        assert layout.devices == (gpus or layout.devices)
        assert layout.ranks == (ranks or layout.ranks)
    assert accepted > 1
    assert refusals
    # The option that is blamed is one that was given.
    assert not [refusal for refusal in refusals if "None" in refusal]
