"""What only a CUDA device can show: events, kernels and memory of real runs on it."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from perfkit.core.record import Record, read_record
from perfkit.data.batches import SampleKey, SeededDataset
from perfkit.measure.recorder import PHASES
from perfkit.strategies.base import Cut, Device
from perfkit.strategies.placement import Placement, measure_stage_costs
from perfkit.strategies.staged import StagedModel

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="no CUDA device")]

SUPPORT = Path(__file__).parents[1] / "support"
SHORT = ("--steps", "10", "--rounds", "2", "--warmup", "3", "--local-batch", "4")
TINY = ("--workload", "tiny:Tiny")
GLAUCOMA = ("--workload", "glaucoma", "--image-size", "32")


def profile(*flags: str, gpus: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command where it sees the first ``gpus`` GPUs and no others."""
    visible = ",".join(str(index) for index in range(gpus))
    return subprocess.run(
        (sys.executable, "-m", "perfkit.profile", "--device", "cuda", *SHORT, *flags),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def record_of(*flags: str, gpus: int, cwd: Path) -> Record:
    done = profile(*flags, "--name", "run", gpus=gpus, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return read_record(cwd / "runs" / "run")


def check_cuda_numbers(record: Record) -> None:
    """Check what every run on GPUs must have, whatever its strategy."""
    assert record.status == "complete"
    for cell in record.cells:
        for step in (step for block in cell.blocks for step in block.steps):
            assert tuple(step.device_phases_s) == PHASES
            assert all(seconds >= 0 for seconds in step.device_phases_s.values())
            assert step.device_phases_s["forward"] > 0
            assert step.device_phases_s["backward"] > 0
            assert step.loss is not None
        if cell.role == "ablation":
            continue  # the same ranks as the strategy
        for memory in cell.memory:
            assert len(memory.cuda_allocated_mib) == cell.devices_per_rank
            for allocated, reserved in zip(
                memory.cuda_allocated_mib, memory.cuda_reserved_mib, strict=True
            ):
                assert 0 < allocated <= reserved
    assert record.traces is not None
    assert all(file.gpu_kernels > 0 for file in record.traces.files)
    assert record.environment.gpus


@pytest.mark.parametrize("workload", [TINY, GLAUCOMA], ids=["tiny", "glaucoma"])
def test_serial_on_one_gpu(workload: tuple[str, ...], tmp_path: Path) -> None:
    record = record_of(*workload, gpus=1, cwd=tmp_path)
    check_cuda_numbers(record)
    (cell,) = record.cells
    assert cell.devices == [["cuda:0"]]
    assert cell.label == "serial"
    assert cell.observed[0].parameter_devices == ["cuda:0"]
    assert not any("stand-in" in taint for taint in record.taints)


def test_ddp_of_one_rank_is_one_gpu_with_nothing_to_compare(tmp_path: Path) -> None:
    record = record_of(*TINY, "--strategy", "ddp", "--gpus", "1", gpus=1, cwd=tmp_path)
    check_cuda_numbers(record)
    assert [(cell.role, cell.devices) for cell in record.cells] == [("strategy", [["cuda:0"]])]


@pytest.mark.parametrize("workload", [TINY, GLAUCOMA], ids=["tiny", "glaucoma"])
def test_oversubscribed_ddp_shares_one_gpu_over_gloo_and_says_so(
    workload: tuple[str, ...], tmp_path: Path
) -> None:
    flags = ("--strategy", "ddp", "--gpus", "2", "--oversubscribe", "--workers", "1")
    record = record_of(*workload, *flags, gpus=1, cwd=tmp_path)
    check_cuda_numbers(record)
    assert [cell.role for cell in record.cells] == ["strategy", "baseline", "ablation"]
    cell = record.cells[0]
    assert (cell.backend, cell.devices) == ("gloo", [["cuda:0"], ["cuda:0"]])
    assert "oversubscribed: 2 devices asked of 1 GPU(s)" in record.taints
    assert record.gate is not None
    assert record.gate.max_abs_difference <= 1e-9


@pytest.mark.parametrize(
    ("strategy", "gpus", "devices"),
    [
        ("ddp", 2, [["cuda:0"], ["cuda:1"]]),
        ("model_parallel", 2, [["cuda:0", "cuda:1"]]),
        # One NCCL group over several GPUs a rank.
        ("ddp_model_parallel", 4, [["cuda:0", "cuda:1"], ["cuda:2", "cuda:3"]]),
    ],
)
@pytest.mark.parametrize("workload", [TINY, GLAUCOMA], ids=["tiny", "glaucoma"])
def test_every_strategy_on_gpus_of_its_own(
    workload: tuple[str, ...], strategy: str, gpus: int, devices: list[list[str]], tmp_path: Path
) -> None:
    if gpus > GPUS:
        pytest.skip(f"{gpus} CUDA devices are needed")
    flags = ("--strategy", strategy, "--gpus", str(gpus))
    record = record_of(*workload, *flags, gpus=gpus, cwd=tmp_path)
    check_cuda_numbers(record)
    cell = record.cells[0]
    assert cell.devices == devices
    assert cell.backend == ("nccl" if len(devices) > 1 else None)
    for seen in cell.observed if cell.placement else []:
        here = devices[seen.rank][cell.placement[seen.stage]]
        assert seen.input_devices == [here]
        assert seen.parameter_devices in ([here], [])
    assert record.gate is not None
    assert record.gate.max_abs_difference <= 1e-9


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--strategy", "model_parallel"), "--device cuda: 2 GPUs are needed on this host and 1"),
        (("--strategy", "ddp", "--gpus", "2"), "or let ranks share with --oversubscribe"),
        (("--strategy", "model_parallel", "--oversubscribe"), "needs 2 different GPUs"),
    ],
)
def test_too_few_gpus_are_refused_under_device_cuda(
    flags: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = profile(*TINY, *flags, gpus=1, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("perfkit: error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert not list(tmp_path.glob("runs/*"))


def test_reading_a_sample_leaves_the_generator_of_the_gpu_alone() -> None:
    before = torch.cuda.get_rng_state()
    SeededDataset(TensorDataset(torch.zeros(4)), 5)[SampleKey(0, 1)]
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_measuring_stage_costs_leaves_model_and_generator_as_they_were() -> None:
    stages = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.Dropout(0.5), nn.Linear(8, 2)]
    model = nn.Sequential(*stages)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.cuda.get_rng_state()
    costs = measure_stage_costs(Cut(stages, torch.ones(4, 8)), torch.device("cuda", 0))
    assert len(costs) == 3
    assert all(cost > 0 for cost in costs)
    assert torch.equal(torch.cuda.get_rng_state(), generator)
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


@pytest.mark.skipif(GPUS < 2, reason="2 CUDA devices are needed")
def test_a_model_on_two_gpus_computes_what_it_computes_on_one() -> None:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Linear(8, 2))
    parts = deepcopy(whole)
    devices = [Device(torch.device("cuda", index), f"cuda:{index}") for index in range(2)]
    staged = StagedModel(parts, list(parts), devices, Placement((0, 1, 0, 1)))
    whole.to("cuda:0")
    inputs = torch.randn(16, 8, device="cuda:0")
    whole(inputs).square().sum().backward()
    staged(inputs).square().sum().backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.cpu(), other.grad.cpu())
    assert staged.transfers.take().crossings == 3
