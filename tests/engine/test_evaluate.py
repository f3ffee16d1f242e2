"""A split is evaluated over all ranks, every sample once, with nothing random in it."""

from __future__ import annotations

from typing import Any

import pytest
import ranks
import torch
import torch.nn.functional as F
import trainable
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.evaluate import Evaluator
from perfkit.engine.loading import Batch, endless_batches
from perfkit.engine.training import Training
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Device, Mesh
from perfkit.strategies.ddp import data_parallel
from perfkit.strategies.placement import Placement
from perfkit.strategies.staged import StagedModel

ALONE = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))
STAND_INS = tuple(Device(torch.device("cpu"), f"stand-in:{index}") for index in range(2))
CONFIG = RunConfig(local_batch=4)
BATCH = 4  # divides neither 13 nor 7


class One(trainable.ThreeClasses):
    """So small a validation set that a second rank has nothing to do."""

    def dataset(self, split: str) -> Dataset[tuple[Tensor, ...]]:
        return Subset(super().dataset(split), [5]) if split == "val" else super().dataset(split)


class Empty(trainable.ThreeClasses):
    def dataset(self, split: str) -> Dataset[tuple[Tensor, ...]]:
        return Subset(super().dataset(split), []) if split == "val" else super().dataset(split)


def training_of(workload: trainable.ThreeClasses, mesh: Mesh) -> Training:
    torch.manual_seed(0)
    model = data_parallel(workload.model(), mesh)
    batches = endless_batches(workload, CONFIG, mesh, 4 * mesh.world_size)
    training = Training(workload, model, batches, mesh, steps_per_epoch=9)
    training.run(2, StepRecorder())  # running statistics of its own
    return training


def what_a_rank_finds(mesh: Mesh) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for workload in (trainable.ThreeClasses(CONFIG), One(CONFIG)):
        training = training_of(workload, mesh)
        for split in ("val", "test"):
            evaluator = Evaluator(workload, split, CONFIG, mesh, BATCH)
            evaluation = evaluator.evaluate(training)
            found[f"{type(workload).__name__} {split}"] = evaluation.model_dump()
    found["state"] = dict(training.model.module.state_dict())  # both train alike
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ranks.on_two_ranks(what_a_rank_finds, tmp_path_factory.mktemp("evaluate"))


def by_hand(
    workload: trainable.ThreeClasses, model: nn.Module, split: str
) -> tuple[float, list[list[int]]]:
    """Return loss and confusion matrix of a whole split at once."""
    dataset = workload.dataset(split)
    inputs, targets = workload.collate([dataset[i] for i in range(len(dataset))], None)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = model.eval()(inputs)
    loss = F.cross_entropy(outputs, targets, weight=workload._weights)
    confusion = [[0] * trainable.CLASSES for _ in range(trainable.CLASSES)]
    for true, called in zip(targets.tolist(), outputs.argmax(1).tolist(), strict=True):
        confusion[true][called] += 1
    return float(loss), confusion


def test_two_ranks_with_uneven_shards_find_what_the_whole_split_has(
    seen: list[dict[str, Any]],
) -> None:
    workload = trainable.ThreeClasses(CONFIG)
    model = workload.model()
    model.load_state_dict(seen[0]["state"])
    for split, size in (("val", 13), ("test", 7)):
        loss, confusion = by_hand(workload, model, split)
        for rank in seen:
            found = rank[f"ThreeClasses {split}"]
            assert found["samples"] == size
            assert found["loss"] == pytest.approx(loss)
            assert found["confusion"] == confusion
            right = sum(confusion[index][index] for index in range(trainable.CLASSES))
            assert found["metrics"]["accuracy"] == pytest.approx(right / size)


def test_all_ranks_know_the_same_and_evaluate_with_the_running_statistics_of_rank_0(
    seen: list[dict[str, Any]],
) -> None:
    first, second = seen
    for name in ("ThreeClasses val", "ThreeClasses test", "One val"):
        assert first[name] == second[name]
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name])


def test_a_split_with_fewer_samples_than_ranks_is_not_padded(seen: list[dict[str, Any]]) -> None:
    found = seen[0]["One val"]
    assert found["samples"] == 1
    assert sum(map(sum, found["confusion"])) == 1


def test_a_rank_alone_finds_what_the_whole_split_has() -> None:
    workload = trainable.ThreeClasses(CONFIG)
    training = training_of(workload, ALONE)
    for split in ("val", "test"):
        found = Evaluator(workload, split, CONFIG, ALONE, BATCH).evaluate(training)
        loss, confusion = by_hand(workload, training.model, split)
        assert (found.split, found.loss) == (split, pytest.approx(loss))
        assert found.confusion == confusion


def test_evaluation_leaves_the_training_as_it_was() -> None:
    workload = trainable.ThreeClasses(CONFIG)
    training = training_of(workload, ALONE)
    state = {name: value.clone() for name, value in training.model.state_dict().items()}
    generator = torch.get_rng_state()
    evaluator = Evaluator(workload, "val", CONFIG, ALONE, BATCH)
    first, second = evaluator.evaluate(training), evaluator.evaluate(training)
    assert first == second
    assert torch.equal(torch.get_rng_state(), generator)  # or dropout would go on elsewhere
    assert all(module.training for module in training.model.modules())
    assert all(parameter.grad is None for parameter in training.model.parameters())
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_model_on_several_devices_is_worth_the_same_and_no_move_is_left_to_count() -> None:
    workload = trainable.ThreeClasses(CONFIG)
    whole = training_of(workload, ALONE)
    model = whole.model
    parts = StagedModel(model, list(model), STAND_INS, Placement((0, 1, 0, 1)))  # type: ignore[call-overload]
    batches = endless_batches(workload, CONFIG, ALONE, 4)
    training = Training(workload, parts, batches, ALONE, steps_per_epoch=9)
    evaluator = Evaluator(workload, "val", CONFIG, ALONE, BATCH)
    assert evaluator.evaluate(training) == evaluator.evaluate(whole)
    assert parts.transfers.take().crossings == 0


def test_a_loss_that_is_not_finite_is_told_and_not_made_up() -> None:
    workload = trainable.DivergingInItsLastStep(CONFIG)
    training = training_of(workload, ALONE)
    found = Evaluator(workload, "val", CONFIG, ALONE, BATCH).evaluate(training)
    assert found.loss != found.loss


def test_a_split_without_samples_is_refused() -> None:
    with pytest.raises(PerfkitError, match="the workload's 'val' set is empty; training needs one"):
        Evaluator(Empty(CONFIG), "val", CONFIG, ALONE, BATCH)


def test_bf16_is_evaluated_in_bf16_and_its_losses_are_float32() -> None:
    workload = trainable.ThreeClasses(CONFIG)
    batches = endless_batches(workload, CONFIG, ALONE, 4)
    model = workload.model()
    training = Training(workload, model, batches, ALONE, steps_per_epoch=9, precision="bf16")
    seen: set[torch.dtype] = set()
    model[-1].register_forward_hook(lambda *call: seen.add(call[2].dtype))  # type: ignore[operator, union-attr]
    dataset = workload.dataset("val")
    samples = [dataset[index] for index in range(4)]
    (outcome,) = training.evaluate([Batch(*workload.collate(samples, None))])
    assert seen == {torch.bfloat16}
    assert (outcome.losses.dtype, outcome.outputs.dtype) == (torch.float32, torch.float32)
