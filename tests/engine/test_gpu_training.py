"""What only a CUDA device can show: precisions, and trainings that end, stop and go on there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perfkit.core.record import Record, read_record

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="no CUDA device")]

SUPPORT = Path(__file__).parents[1] / "support"
SHORT = ("--steps", "10", "--rounds", "2", "--warmup", "3")
SMALL = ("--workload", "forensics", "--image-size", "32", "--local-batch", "8")


def record_of(command: str, *flags: str, cwd: Path, name: str = "run") -> Record:
    done = subprocess.run(
        (sys.executable, "-m", f"perfkit.{command}", "--device", "cuda", *flags, "--name", name),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read_record(cwd / "runs" / name)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("fp32", "torch.float32"),
        ("tf32", "torch.float32"),
        ("bf16", "torch.bfloat16"),
        ("fp16", "torch.float16"),
    ],
)
def test_every_precision_is_seen_to_be_what_it_is_called(
    precision: str, dtype: str, tmp_path: Path
) -> None:
    if precision in {"tf32", "bf16"} and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs compute capability 8.0")
    record = record_of("profile", *SMALL, *SHORT, "--precision", precision, cwd=tmp_path)
    cell = record.cells[0]
    assert cell.product_dtypes[0][dtype] > 10
    if torch.cuda.get_device_capability() >= (8, 0):
        assert cell.tf32 is (precision == "tf32")
        assert record.environment.tf32_matmul is (precision == "tf32")
        assert record.environment.tf32_convolution is (precision == "tf32")


def test_fp16_under_oversubscribed_ddp_is_timed_beside_fp32(tmp_path: Path) -> None:
    flags = ("--strategy", "ddp", "--gpus", "2", "--oversubscribe", "--precision", "fp16")
    record = record_of(
        "profile", *SMALL, *SHORT, *flags, "--baseline", "precision=fp32", cwd=tmp_path
    )
    roles = [(cell.role, cell.precision) for cell in record.cells]
    assert roles == [("strategy", "fp16"), ("variant", "fp32"), ("ablation", "fp16")]


@pytest.mark.skipif(GPUS < 4, reason="fewer than 4 CUDA devices")
def test_ddp_with_fp16_and_model_parallel_is_all_three(tmp_path: Path) -> None:
    flags = ("--strategy", "ddp_model_parallel", "--gpus", "4", "--precision", "fp16")
    cell = record_of("profile", *SMALL, *SHORT, *flags, cwd=tmp_path).cells[0]
    assert cell.devices == [["cuda:0", "cuda:1"], ["cuda:2", "cuda:3"]]
    assert all(seen["torch.float16"] > 10 for seen in cell.product_dtypes)
    assert cell.crossings == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_deterministic_training_comes_to_the_same_bits_twice(
    precision: str, tmp_path: Path
) -> None:
    flags = (*SMALL, "--precision", precision, "--epochs", "2", "--deterministic")
    models = []
    for name in ("one", "other"):
        record = record_of("train", *flags, cwd=tmp_path, name=name)
        assert record.training is not None
        assert (record.training.epochs[-1].loss_scale is not None) == (precision == "fp16")
        path = tmp_path / "runs" / name / "checkpoints" / "last.pt"
        models.append(torch.load(path, map_location="cpu", weights_only=True)["model"])
    one, other = models
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.skipif(GPUS < 2, reason="fewer than 2 CUDA devices")
def test_ddp_over_nccl_evaluates_every_sample_once(tmp_path: Path) -> None:
    flags = ("--strategy", "ddp", "--gpus", "2", "--epochs", "2")
    record = record_of("train", *SMALL, *flags, cwd=tmp_path)
    assert record.cells[0].backend == "nccl"
    assert record.training is not None
    assert record.training.test is not None
    assert record.training.test.samples == sum(map(sum, record.training.test.confusion))
