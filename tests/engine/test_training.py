"""The step that is measured: its loss, its optimiser, its phases, and its data."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from itertools import islice
from typing import Any

import pytest
import ranks
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.loading import Batch, endless_batches
from perfkit.engine.training import Training, staged_part
from perfkit.measure.recorder import PHASES, StepRecorder
from perfkit.strategies.base import Device, Mesh
from perfkit.strategies.ddp import data_parallel
from perfkit.strategies.placement import Placement
from perfkit.strategies.staged import StagedModel

ALONE = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))
STAND_INS = tuple(Device(torch.device("cpu"), f"stand-in:{index}") for index in range(2))
CONFIG = RunConfig(local_batch=4)
WEIGHTS = (0.1, 0.9)  # of the classes of Tiny
PARAMETERS = 8  # tensors of Tiny's model


class Linear(tiny.Tiny):
    """One layer, so that nothing depends on who is in the batch with whom."""

    clip_norm: float | None = None

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(tiny.FEATURES, 2))

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=1.0)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, step_size=1, gamma=0.5)


class Momentum(tiny.Tiny):
    def optimizer(self, model: nn.Module) -> Optimizer:
        return AdamW(model.parameters(), lr=0.1)


def batches_of(workload: tiny.Tiny, mesh: Mesh, config: RunConfig = CONFIG) -> Generator[Batch]:
    return endless_batches(workload, config, mesh, 4 * mesh.world_size)


def training_of(
    workload: tiny.Tiny, mesh: Mesh, *, steps_per_epoch: int = 100, config: RunConfig = CONFIG
) -> Training:
    torch.manual_seed(0)
    model = data_parallel(workload.model(), mesh)
    batches = batches_of(workload, mesh, config)
    return Training(workload, model, batches, mesh, steps_per_epoch=steps_per_epoch)


def state_of(training: Training) -> list[Tensor]:
    """Everything that must be equal on all ranks: parameters, buffers, optimiser state."""
    optimizer = training._optimizer.state_dict()["state"]
    moments = [value.clone() for entry in optimizer.values() for value in entry.values()]
    tensors = (*training.model.parameters(), *training.model.buffers())
    return [*(tensor.detach().clone() for tensor in tensors), *moments]


def what_a_rank_sees(mesh: Mesh) -> dict[str, Any]:
    found: dict[str, Any] = {}
    training = training_of(Linear(CONFIG), mesh)
    recorder = StepRecorder()
    before = state_of(training)
    training.run(1, recorder)
    found["loss"] = recorder.samples()[0].loss
    found["step"] = [(b - a) for a, b in zip(before, state_of(training), strict=True)]

    training = training_of(Momentum(CONFIG), mesh)
    training.run(2, StepRecorder())
    found["together"] = state_of(training)
    training.run(2, StepRecorder(), communicate=False)
    found["apart"] = state_of(training)
    training.reunite()
    found["reunited"] = state_of(training)
    training.run(2, StepRecorder())
    found["together again"] = state_of(training)
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ranks.on_two_ranks(what_a_rank_sees, tmp_path_factory.mktemp("training"))


def joined_batch() -> tuple[Tensor, Tensor]:
    """The first global batch of two ranks with four samples each."""
    workload = Linear(CONFIG)
    inputs, targets, *_ = next(endless_batches(workload, CONFIG, ALONE, 8))
    return inputs, targets


def test_loss_and_gradient_of_two_ranks_are_those_of_the_joined_batch(
    seen: list[dict[str, Any]],
) -> None:
    inputs, targets = joined_batch()
    shares = [sum(WEIGHTS[int(t)] for t in targets[part]) for part in (slice(4), slice(4, 8))]
    assert shares[0] != pytest.approx(shares[1])  # or a mean of means would be right too
    torch.manual_seed(0)
    model = Linear(CONFIG).model()
    by_hand = F.cross_entropy(model(inputs), targets, weight=torch.tensor(WEIGHTS))
    by_hand.backward()
    assert sum(rank["loss"] for rank in seen) / 2 == pytest.approx(float(by_hand.detach()))
    for rank in seen:
        for step, parameter in zip(rank["step"], model.parameters(), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(step, -parameter.grad)  # SGD at a learning rate of 1


def differing(first: list[Tensor], second: list[Tensor]) -> int:
    return sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_parameters_stay_equal_while_ranks_communicate(seen: list[dict[str, Any]]) -> None:
    first, second = (rank["together"][:PARAMETERS] for rank in seen)
    assert differing(first, second) == 0


def test_reunite_makes_ranks_equal_again_after_steps_without_communication(
    seen: list[dict[str, Any]],
) -> None:
    first, second = seen
    assert differing(first["apart"], second["apart"]) > 10
    assert differing(first["reunited"], second["reunited"]) == 0
    assert differing(first["reunited"], first["apart"]) == 0  # rank 0's state is what counts
    again = (rank["together again"][:PARAMETERS] for rank in seen)
    assert differing(*again) == 0


def test_the_schedule_is_stepped_once_an_epoch() -> None:
    training = training_of(Linear(CONFIG), ALONE, steps_per_epoch=3)
    rates = []
    for _ in range(7):
        training.run(1, StepRecorder())
        rates.append(training._optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("clip_norm", [None, 1e-3, 1e3])
def test_gradients_are_clipped_to_the_workloads_norm(clip_norm: float | None) -> None:
    workload = Linear(CONFIG)
    workload.clip_norm = clip_norm
    training = training_of(workload, ALONE)
    before = state_of(training)
    training.run(1, StepRecorder())
    step = torch.cat(
        [(b - a).flatten() for a, b in zip(before, state_of(training), strict=True)]
    ).norm()
    if clip_norm == 1e-3:
        assert float(step) == pytest.approx(1e-3, rel=1e-2)
    else:
        assert 1e-1 < float(step) < 1e3


def test_gradients_do_not_pile_up_from_step_to_step() -> None:
    training = training_of(Linear(CONFIG), ALONE)
    training.run(3, StepRecorder())
    assert all(parameter.grad is None for parameter in training.model.parameters())


def test_every_step_has_every_phase_and_a_loss() -> None:
    recorder = StepRecorder()
    training_of(tiny.Tiny(CONFIG), ALONE).run(3, recorder)
    samples = recorder.samples()
    assert len(samples) == 3
    for sample in samples:
        assert tuple(sample.phases_s) == PHASES
        assert sum(sample.phases_s.values()) <= sample.host_s
        assert sample.loss > 0
        assert sample.communication_s is None  # no stages, no explicit moves


def test_the_crossings_of_the_last_step_are_kept_and_their_time_is_the_steps_own() -> None:
    workload = tiny.Tiny(CONFIG)
    model = workload.model()
    parts = StagedModel(model, list(model), STAND_INS, Placement((0, 1, 0, 1)))  # type: ignore[call-overload]
    training = Training(workload, parts, batches_of(workload, ALONE), ALONE, steps_per_epoch=9)
    recorder = StepRecorder()
    training.run(2, recorder)
    assert training.moved is not None
    assert training.moved.crossings == 3
    times = [sample.communication_s for sample in recorder.samples()]
    assert times[1] == training.moved.host_s
    assert all(time_s is not None and time_s > 0 for time_s in times)


def test_staged_part_finds_the_stages_and_only_them() -> None:
    model = tiny.Tiny(CONFIG).model()
    parts = StagedModel(model, list(model), STAND_INS, Placement((0, 0, 1, 1)))  # type: ignore[call-overload]
    assert staged_part(parts) is parts
    assert staged_part(model) is None
    assert not isinstance(data_parallel(parts, ALONE), DistributedDataParallel)


class Averaging(tiny.Tiny):
    """Takes the mean itself, as losses usually do."""

    def loss(self, outputs: Any, targets: Any) -> Any:
        losses, _ = super().loss(outputs, targets)
        return losses.mean()


class AveragingInOne(Averaging):
    """Hides that in a tensor of one entry, beside a weight of the same shape."""

    def loss(self, outputs: Any, targets: Any) -> Any:
        mean = super().loss(outputs, targets)[None]
        return mean, torch.ones_like(mean)


@pytest.mark.parametrize("kind", [Averaging, AveragingInOne])
def test_a_loss_that_is_already_a_mean_is_refused(kind: type[tiny.Tiny]) -> None:
    workload = kind(CONFIG)
    batches = endless_batches(workload, CONFIG, ALONE, 4)
    training = Training(workload, workload.model(), batches, ALONE, steps_per_epoch=1)
    with pytest.raises(PerfkitError, match=r"has to return \(losses, weights\), both \[N\]"):
        training.run(1, StepRecorder())


class Random(tiny.Tiny):
    """Augments by the seeds it is given."""

    def collate(self, samples: Any, seeds: Any) -> tuple[Tensor, Tensor]:
        inputs, targets = super().collate(samples, seeds)
        noise = [torch.randn((), generator=torch.Generator().manual_seed(s)) for s in seeds]
        return inputs + torch.stack(noise)[:, None], targets


def test_loader_workers_change_nothing_in_the_batches_and_live_until_the_training_closes() -> None:
    before = multiprocessing.active_children()
    workload = Random(CONFIG)
    alone = list(islice(batches_of(workload, ALONE), 20))
    training = training_of(workload, ALONE, config=RunConfig(workers=2))
    helped = list(islice(training.batches, 20))
    for (inputs, targets, *_), (other_inputs, other_targets, *_) in zip(alone, helped, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)
    assert len(multiprocessing.active_children()) == len(before) + 2
    training.close()
    assert multiprocessing.active_children() == before
