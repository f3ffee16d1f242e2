"""The gate lets through what trains as serial training does, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import ranks
import tiny
import tiny_se
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from perfkit.core.config import RunConfig, StrategyName
from perfkit.core.errors import PerfkitError
from perfkit.engine.gate import STEPS, TOLERANCE, Parallelize, equality_gate
from perfkit.engine.training import Training
from perfkit.ops import build_info
from perfkit.ops.reference import squeeze_excite as reference
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Cut, Device, Mesh
from perfkit.strategies.placement import Placement
from perfkit.workloads.base import Workload, stages_of
from perfkit.workloads.glaucoma import Glaucoma

STAND_INS = tuple(Device(torch.device("cpu"), f"stand-in:{index}") for index in range(2))
ALONE = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))
SIZE = 32  # pixels


class NoisyData(Dataset[tuple[Tensor, Tensor]]):
    """Draws from torch's generator, as a data set with random transforms does."""

    def __init__(self, data: Dataset[tuple[Tensor, ...]]) -> None:
        self._data = data

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = self._data[index]
        return inputs + torch.rand(()), target


class Noisy(tiny.Tiny):
    def dataset(self, split: str) -> Dataset[tuple[Tensor, ...]]:
        return NoisyData(super().dataset(split))


class WithDropout(tiny.Tiny):
    def model(self) -> nn.Module:
        return nn.Sequential(*super().model(), nn.Dropout(0.5))


def config_of(strategy: StrategyName) -> RunConfig:
    return RunConfig(strategy=strategy, image_size=SIZE, local_batch=2)


def real(strategy: StrategyName, workload: Workload) -> Parallelize:
    """Parallelize as a run does, the stages being placed in turn."""

    def parallelize(model: nn.Module, mesh: Mesh) -> nn.Module:
        stages = stages_of(workload, model)
        assert stages is not None
        in_turn = Placement(tuple(index % 2 for index in range(len(stages))))
        cut = Cut(stages, torch.empty(0), in_turn)
        return STRATEGIES[strategy].parallelize(model, cut, mesh, config_of(strategy))

    return parallelize


def outcome(
    workload: Workload, mesh: Mesh, strategy: StrategyName, parallelize: Parallelize | None = None
) -> float | str:
    """Return the largest difference, or what the gate said when it refused."""
    if strategy in {"model_parallel", "ddp_model_parallel"}:
        mesh = replace(mesh, devices=STAND_INS)
    try:
        gate = equality_gate(
            workload, parallelize or real(strategy, workload), mesh, config_of(strategy)
        )
    except PerfkitError as error:
        return str(error)
    assert (gate.steps, gate.tolerance) == (STEPS, TOLERANCE)
    assert gate.global_batch == 2 * mesh.world_size
    return gate.max_abs_difference


def without_ddp(model: nn.Module, mesh: Mesh) -> nn.Module:
    return model


def weights_of_the_own_share(
    self: Training, outputs: Tensor, targets: Tensor, communicate: bool
) -> Tensor:
    """The mean over ranks of weighted means, which DistributedDataParallel makes of this."""
    losses, weights = self._workload.loss(outputs, targets)
    return (losses * weights).sum() / weights.sum()


def one_rank_starts_elsewhere(model: nn.Module, mesh: Mesh) -> nn.Module:
    parallel = STRATEGIES["ddp"].parallelize(model, None, mesh, config_of("ddp"))
    with torch.no_grad():
        next(parallel.parameters()).add_(1e-6 * mesh.rank)
    return parallel


def every_case(mesh: Mesh) -> dict[str, float | str]:
    config = config_of("ddp")
    small, large = tiny.Tiny(config), Glaucoma(config)
    found = {
        "ddp tiny": outcome(small, mesh, "ddp"),
        "ddp medical_cnn": outcome(large, mesh, "ddp"),
        "ddp_model_parallel tiny": outcome(small, mesh, "ddp_model_parallel"),
        "ddp_model_parallel medical_cnn": outcome(large, mesh, "ddp_model_parallel"),
        "ddp noisy data": outcome(Noisy(config), mesh, "ddp"),
        "ddp dropout": outcome(WithDropout(config), mesh, "ddp"),
        "no all-reduce": outcome(small, mesh, "ddp", without_ddp),
        "unequal start": outcome(small, mesh, "ddp", one_rank_starts_elsewhere),
    }
    right = Training._global_loss
    Training._global_loss = weights_of_the_own_share  # type: ignore[method-assign]
    found["mean of means"] = outcome(small, mesh, "ddp")
    Training._global_loss = right  # type: ignore[method-assign]
    found["mean of means put right"] = outcome(small, mesh, "ddp")
    return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float | str]]:
    """What each of two ranks got, by case."""
    return ranks.on_two_ranks(every_case, tmp_path_factory.mktemp("gate"))


@pytest.mark.parametrize("strategy", ["ddp", "ddp_model_parallel"])
@pytest.mark.parametrize("model", ["tiny", "medical_cnn"])
def test_two_ranks_train_as_serial_training_does(
    strategy: str, model: str, cases: list[dict[str, float | str]]
) -> None:
    first, second = (case[f"{strategy} {model}"] for case in cases)
    assert isinstance(first, float), first
    assert 0 < first <= 1e-9  # sums are taken in another order: exactly 0 would be no comparison
    assert first == second


@pytest.mark.parametrize("case", ["ddp noisy data", "ddp dropout", "mean of means put right"])
def test_randomness_of_the_data_and_dropout_do_not_fail_the_gate(
    case: str, cases: list[dict[str, float | str]]
) -> None:
    for rank in cases:
        assert isinstance(rank[case], float), rank[case]


@pytest.mark.parametrize("case", ["no all-reduce", "mean of means", "unequal start"])
def test_what_does_not_train_as_serial_training_fails_on_every_rank(
    case: str, cases: list[dict[str, float | str]]
) -> None:
    for rank in cases:
        message = rank[case]
        assert isinstance(message, str), message
        assert message.startswith("--strategy ddp does not train as serial training does")
        assert "\n" not in message
    assert cases[0][case] == cases[1][case]


@pytest.mark.parametrize("workload", [tiny.Tiny, Glaucoma])
def test_model_parallel_trains_as_serial_training_does(
    workload: Callable[[RunConfig], Workload],
) -> None:
    config = config_of("model_parallel").model_copy(update={"ops": "reference"})
    made = workload(config)
    assert outcome(made, ALONE, "model_parallel") == 0.0  # the same sums in the same order


@pytest.mark.parametrize("strategy", ["serial", "model_parallel"])
def test_a_fused_model_is_held_against_the_reference(
    strategy: StrategyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(strategy)
    workload, mesh = tiny_se.TinySe(config), Mesh(rank=0, world_size=1, devices=STAND_INS)
    gate = equality_gate(workload, real(strategy, workload), mesh, config)
    assert gate.squeeze_excites == {f"fused {build_info().isa}": 2 * STEPS}
    assert gate.max_abs_difference <= 1e-9
    right = reference.squeeze_excite

    def wrong(x: Tensor, *layers: Any, **rest: Any) -> Tensor:
        return right(x, *layers, **rest) * (1 + 1e-6)

    monkeypatch.setattr(reference, "squeeze_excite", wrong)
    message = outcome(workload, ALONE, strategy)
    assert isinstance(message, str)
    expected = {
        "serial": "--ops fused does not train as --ops reference does: after 5 steps in float64 ",
        "model_parallel": "--strategy model_parallel does not train as serial training does: ",
    }
    assert message.startswith(expected[strategy])
    assert "\n" not in message


class Poisoned(tiny.Tiny):
    def model(self) -> nn.Module:
        model = super().model()
        with torch.no_grad():
            next(model.parameters())[0, 0] = torch.nan
        return model


def test_parameters_that_are_no_numbers_are_not_equal() -> None:
    workload = Poisoned(config_of("model_parallel"))
    message = outcome(workload, ALONE, "model_parallel")
    assert isinstance(message, str)
    assert "came to nan" in message


def test_a_stage_that_is_left_out_fails() -> None:
    workload = tiny.Tiny(config_of("model_parallel"))

    def parallelize(model: nn.Module, mesh: Mesh) -> nn.Module:
        cut = Cut([model[0], model[1], model[3]], torch.empty(0), Placement((0, 0, 1)))  # type: ignore[index]
        return STRATEGIES["model_parallel"].parallelize(
            model, cut, mesh, config_of("model_parallel")
        )

    message = outcome(workload, ALONE, "model_parallel", parallelize)
    assert isinstance(message, str)
    assert "does not train as serial training does" in message
