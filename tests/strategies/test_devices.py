"""Which devices a rank gets, and what the reader of its numbers is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.strategies import STRATEGIES
from perfkit.strategies.devices import DeviceChoice, choose_devices


def choose(
    gpu_count: int,
    strategy: str,
    *,
    local_rank: int = 0,
    local_ranks: int | None = None,
    **flags: Any,
) -> DeviceChoice:
    """Return the choice of one rank of ``local_ranks`` (default: all of them) on its host."""
    config = RunConfig(strategy=strategy, **flags)
    layout = STRATEGIES[config.strategy].layout(config)
    return choose_devices(
        config,
        layout,
        local_rank=local_rank,
        local_world_size=local_ranks or layout.ranks,
        gpu_count=gpu_count,
    )


def names(choice: DeviceChoice) -> list[str]:
    return [device.name for device in choice.devices]


@pytest.mark.parametrize(
    ("gpu_count", "strategy", "flags", "expected", "backend"),
    [
        (1, "serial", {}, ["cuda:0"], "nccl"),
        (1, "serial", {"device": "cuda"}, ["cuda:0"], "nccl"),
        (4, "ddp", {"gpus": 4, "local_rank": 2}, ["cuda:2"], "nccl"),
        (4, "ddp", {"gpus": 2, "local_rank": 1, "oversubscribe": True}, ["cuda:1"], "nccl"),
        (2, "model_parallel", {"gpus": 2}, ["cuda:0", "cuda:1"], "nccl"),
        (4, "ddp_model_parallel", {"gpus": 4, "local_rank": 1}, ["cuda:2", "cuda:3"], "nccl"),
        # Two ranks on each of two hosts.
        (2, "ddp", {"gpus": 4, "local_rank": 1, "local_ranks": 2}, ["cuda:1"], "nccl"),
        (4, "ddp", {"gpus": 2, "device": "cpu"}, ["cpu"], "gloo"),
        (0, "serial", {}, ["cpu"], "gloo"),
        (0, "serial", {"device": "cpu", "gpus": 1}, ["cpu"], "gloo"),
    ],
)
def test_what_was_asked_for_is_given_without_a_taint(
    gpu_count: int, strategy: str, flags: dict[str, Any], expected: list[str], backend: str
) -> None:
    choice = choose(gpu_count, strategy, **flags)
    assert names(choice) == expected
    assert choice.backend == backend
    assert choice.taints == ()
    assert not any(device.is_stand_in for device in choice.devices)
    assert [str(device.torch_device) for device in choice.devices] == expected


@pytest.mark.parametrize(
    ("gpu_count", "strategy", "flags", "expected", "reason"),
    [
        (0, "serial", {"gpus": 1}, ["cpu"], "no CUDA device"),
        (0, "ddp", {"gpus": 2}, ["cpu"], "no CUDA device"),
        (0, "ddp", {"ranks": 2}, ["cpu"], "no CUDA device"),
        (1, "ddp", {"gpus": 2}, ["cpu"], "1 GPU(s) for 2 devices"),
        (1, "ddp", {"ranks": 2}, ["cpu"], "1 GPU(s) for 2 devices"),
        (0, "model_parallel", {"gpus": 2}, ["stand-in:0", "stand-in:1"], "no CUDA device"),
        (1, "model_parallel", {}, ["stand-in:0", "stand-in:1"], "1 GPU(s) for 2 devices"),
        (
            8,
            "model_parallel",
            {"gpus": 2, "device": "cpu"},
            ["stand-in:0", "stand-in:1"],
            "--device cpu",
        ),
        (
            3,
            "ddp_model_parallel",
            {"gpus": 4, "local_rank": 1},
            ["stand-in:0", "stand-in:1"],
            "3 GPU(s) for 4 devices",
        ),
    ],
)
def test_the_cpu_stands_in_for_missing_gpus_with_a_taint_that_says_why(
    gpu_count: int, strategy: str, flags: dict[str, Any], expected: list[str], reason: str
) -> None:
    choice = choose(gpu_count, strategy, **flags)
    assert names(choice) == expected
    assert {device.torch_device for device in choice.devices} == {torch.device("cpu")}
    assert choice.backend == "gloo"
    (taint,) = choice.taints
    assert taint.startswith("stand-in devices")
    assert reason in taint


def test_oversubscribed_ranks_share_gpus_over_gloo_with_a_taint() -> None:
    choices = [
        choose(2, "ddp", gpus=4, oversubscribe=True, local_rank=rank, device=device)
        for rank in range(4)
        for device in ("auto", "cuda")
    ]
    assert [names(choice) for choice in choices[::2]] == [
        ["cuda:0"],
        ["cuda:1"],
        ["cuda:0"],
        ["cuda:1"],
    ]
    for choice in choices:
        assert choice.backend == "gloo"  # NCCL refuses two ranks on one GPU
        assert choice.taints == ("oversubscribed: 4 devices asked of 2 GPU(s)",)


@pytest.mark.parametrize(
    ("gpu_count", "strategy", "flags", "words"),
    [
        (0, "serial", {"device": "cuda"}, "--device cuda: no CUDA device is visible"),
        (0, "ddp", {"gpus": 2, "device": "cuda", "oversubscribe": True}, "no CUDA device"),
        (1, "ddp", {"gpus": 2, "device": "cuda"}, "2 GPUs are needed on this host and 1 visible"),
        (1, "model_parallel", {"device": "cuda"}, "2 GPUs are needed"),
        (3, "ddp_model_parallel", {"device": "cuda"}, "4 GPUs are needed"),
        (1, "model_parallel", {"oversubscribe": True}, "needs 2 different GPUs in one rank"),
        (
            3,
            "ddp_model_parallel",
            {"gpus": 8, "ranks": 2, "oversubscribe": True},
            "needs 4 different GPUs in one rank",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(
    gpu_count: int, strategy: str, flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(PerfkitError) as refusal:
        choose(gpu_count, strategy, **flags)
    assert words in str(refusal.value)
    assert "--" in str(refusal.value)
    assert "\n" not in str(refusal.value)
