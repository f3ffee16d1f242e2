"""Mixed precision does what it says: what runs in it, what is scaled, skipped and refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ranks
import torch
import torch.nn.functional as F
import trainable
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from trainings import restored_settings

from perfkit.core.config import Precision, RunConfig
from perfkit.engine.forward_observer import ForwardObserver, check_products
from perfkit.engine.loading import endless_batches
from perfkit.engine.precision import (
    set_deterministic,
    set_float32_precision,
    tf32_in_use,
)
from perfkit.engine.training import Training
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Device, Mesh
from perfkit.strategies.ddp import data_parallel
from perfkit.strategies.placement import Placement
from perfkit.strategies.staged import StagedModel

CPU = torch.device("cpu")
ALONE = Mesh(rank=0, world_size=1, devices=(Device(CPU, "cpu"),))
STAND_INS = tuple(Device(CPU, f"stand-in:{index}") for index in range(2))
CONFIG = RunConfig(local_batch=4)
FIRST_SCALE = 65536.0
LARGEST_FP16 = 65504.0


class Steep(trainable.ThreeClasses):
    """Gradients that overflow in fp16 until the scale is a hundredth of the first one."""

    clip_norm: float | None = None
    steepness = 100.0
    rate = 1e-3
    seen: list[torch.dtype]

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(trainable.FEATURES, 4), nn.Linear(4, trainable.CLASSES))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = [outputs.dtype]
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return self.steepness * losses, torch.ones_like(losses)

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=self.rate, momentum=0.9)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, step_size=1, gamma=0.5)


def training_of(
    workload: trainable.ThreeClasses, precision: Precision, mesh: Mesh = ALONE
) -> Training:
    torch.manual_seed(0)
    model = workload.model()
    if len(mesh.devices) > 1:
        model = StagedModel(model, list(model), mesh.devices, Placement((0, 1)))  # type: ignore[call-overload]
    batches = endless_batches(workload, CONFIG, mesh, 4 * mesh.world_size)
    return Training(
        workload,
        data_parallel(model, mesh),
        batches,
        mesh,
        steps_per_epoch=1,
        precision=precision,
    )


def tensors_of(training: Training) -> list[Tensor]:
    """Return copies of the parameters and of what the optimiser knows of them."""
    moments = [
        value
        for entry in training._optimizer.state_dict()["state"].values()
        for value in entry.values()
    ]
    return [tensor.detach().clone() for tensor in (*training.model.parameters(), *moments)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_overflow_skips_the_step_and_the_schedule_and_halves_the_scale() -> None:
    training = training_of(Steep(CONFIG), "fp16")
    recorder = StepRecorder()
    before, skipped = tensors_of(training), 0
    assert training.loss_scale == FIRST_SCALE
    while True:
        training.run(1, recorder)
        if not recorder.samples()[-1].skipped:
            break
        skipped += 1
        assert same(tensors_of(training), before)
        assert training.learning_rate == 1e-3
        assert training.loss_scale == FIRST_SCALE / 2**skipped
        assert training.state()["updates"] == 0
    assert 2 < skipped < 20
    assert training.loss_scale == FIRST_SCALE / 2**skipped
    assert not same(tensors_of(training)[: len(before)], before)
    assert training.learning_rate == 5e-4
    assert training.state()["updates"] == 1
    assert [sample.skipped for sample in recorder.samples()] == [True] * skipped + [False]


@pytest.mark.parametrize("clip_norm", [None, 1e-4, 1e4])
def test_clipping_sees_the_gradients_as_they_are_without_the_scale(
    clip_norm: float | None,
) -> None:
    steps = {}
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        workload = Steep(CONFIG)
        workload.clip_norm, workload.steepness, workload.rate = clip_norm, 0.1, 1.0
        training = training_of(workload, precision)
        before = tensors_of(training)
        training.run(1, StepRecorder())
        after = tensors_of(training)[: len(before)]
        moved = [(b - a).flatten() for a, b in zip(before, after, strict=True)]
        steps[precision] = torch.cat(moved)
    assert float((steps["fp16"] - steps["fp32"]).norm() / steps["fp32"].norm()) < 0.01
    if clip_norm == 1e-4:
        assert float(steps["fp16"].norm()) == pytest.approx(1e-4, rel=0.01)


def skipped_on_two_ranks(mesh: Mesh) -> dict[str, Any]:
    """Train two stages in each rank, of which only rank 1 has gradients too large for fp16."""
    staged = Mesh(mesh.rank, mesh.world_size, STAND_INS, mesh.group, mesh.control)
    workload = Steep(CONFIG)
    workload.steepness = 1.2 * LARGEST_FP16 / FIRST_SCALE * (50 if mesh.rank == 1 else 1e-3)
    training = training_of(workload, "fp16", staged)
    recorder = StepRecorder()
    training.run(12, recorder)
    return {
        "skipped": [sample.skipped for sample in recorder.samples()],
        "scale": training.loss_scale,
        "tensors": tensors_of(training),
    }


def test_all_ranks_skip_the_step_that_overflows_in_one_of_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    first, second = ranks.on_two_ranks(skipped_on_two_ranks, tmp_path_factory.mktemp("skipped"))
    assert first["skipped"] == second["skipped"]
    assert first["skipped"][0]
    assert not first["skipped"][-1]
    assert first["scale"] == second["scale"]
    assert same(first["tensors"], second["tensors"])


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", "float32"), ("tf32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")],
)
@pytest.mark.parametrize("mesh", [ALONE, Mesh(0, 1, STAND_INS)], ids=["whole", "staged"])
def test_products_run_in_what_was_asked_for_and_all_else_stays_float32(
    precision: Precision, dtype: str, mesh: Mesh
) -> None:
    workload = Steep(CONFIG)
    training = training_of(workload, precision, mesh)
    observer = ForwardObserver()
    with observer.watching(training.model):
        training.run(1, StepRecorder())
    assert observer.products == {f"torch.{dtype}": 2}
    check_products(precision, observer.products)
    assert workload.seen == [torch.float32]
    assert {tensor.dtype for tensor in tensors_of(training)} == {torch.float32}
    assert (training.loss_scale is None) == (precision != "fp16")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_model_learns_in_low_precision_as_it_does_in_fp32(precision: Precision) -> None:
    losses = {}
    wanted: tuple[Precision, ...] = ("fp32", precision)
    for each in wanted:
        workload = Steep(CONFIG)
        workload.steepness = 0.1
        training = training_of(workload, each)
        recorder = StepRecorder()
        training.run(10, recorder)
        losses[each] = [sample.loss for sample in recorder.samples()]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses[precision] != losses["fp32"]


@pytest.mark.parametrize(("precision", "is_on"), [("tf32", True), ("fp32", False), ("bf16", False)])
def test_tf32_is_used_exactly_where_it_was_asked_for_and_told_where_there_is_any(
    precision: Precision, is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = {0: (8, 0), 1: (9, 0), 2: (7, 5)}
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities[device.index]
    )
    ampere, hopper, turing = (torch.device("cuda", index) for index in capabilities)
    with restored_settings():
        set_float32_precision(precision)
        mode = "tf32" if is_on else "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == mode
        assert torch.backends.cudnn.conv.fp32_precision == mode
        assert tf32_in_use([ampere]) is is_on
        assert tf32_in_use([hopper, turing]) is is_on
        assert tf32_in_use([turing]) is None
        assert tf32_in_use([CPU]) is None
        assert tf32_in_use([]) is None


def test_deterministic_mode_refuses_what_has_no_deterministic_algorithm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with restored_settings():
        set_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            torch.zeros(3).put_(torch.tensor([1]), torch.ones(1), accumulate=False)
