"""Which stage goes on which device, and what measuring that leaves untouched."""

from __future__ import annotations

import random
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from perfkit.core.config import RunConfig
from perfkit.models.medical_cnn import MedicalCNN
from perfkit.strategies import placement as placement_module
from perfkit.strategies.base import Cut, Device, Mesh
from perfkit.strategies.placement import (
    COST_REPEATS,
    Placement,
    balanced,
    choose_placement,
    interleaved,
    measure_stage_costs,
)

CPU = torch.device("cpu")


def mesh_of(devices: int) -> Mesh:
    return Mesh(0, 1, tuple(Device(CPU, f"stand-in:{index}") for index in range(devices)))


def dearest_device(costs: list[float], placement: tuple[int, ...]) -> float:
    loads = [0.0] * (max(placement) + 1)
    for cost, device in zip(costs, placement, strict=True):
        loads[device] += cost
    return max(loads)


def is_contiguous(placement: tuple[int, ...], devices: int) -> bool:
    """Whether every device is used and has one run of stages, in the order of the devices."""
    return sorted(set(placement)) == list(range(devices)) and list(placement) == sorted(placement)


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_balanced_is_the_best_of_all_contiguous_placements(devices: int) -> None:
    rng = random.Random(devices)
    for _ in range(40):
        costs = [rng.choice([0.0, rng.random(), 10 * rng.random()]) for _ in range(7)]
        found = balanced(costs, devices)
        assert is_contiguous(found, devices)
        best = min(
            dearest_device(costs, candidate)
            for candidate in product(range(devices), repeat=len(costs))
            if is_contiguous(candidate, devices)
        )
        assert dearest_device(costs, found) == pytest.approx(best)


def test_balanced_places_a_model_of_many_small_stages_on_eight_devices() -> None:
    # There are more than 300 million ways to cut this.
    found = balanced([1.0] * 64, 8)
    assert [found.count(device) for device in range(8)] == [8] * 8


def test_as_many_devices_as_stages_get_one_stage_each() -> None:
    assert balanced([3.0, 1.0, 2.0], 3) == (0, 1, 2)


def test_interleaved_medical_cnn_on_two_devices_is_the_published_placement() -> None:
    config = RunConfig(strategy="model_parallel", placement="interleaved")
    cut = Cut(MedicalCNN().stages(), torch.zeros(2, 3, 32, 32))
    chosen = choose_placement(cut, mesh_of(2), config)
    assert chosen.devices == (0, 1, 0, 1, 0)
    assert chosen.crossings == 4


@pytest.mark.parametrize(("stages", "devices"), [(5, 2), (5, 3), (4, 4)])
def test_crossings_of_the_two_kinds_of_placement(stages: int, devices: int) -> None:
    assert Placement(interleaved(stages, devices)).crossings == stages - 1
    assert Placement(balanced([1.0] * stages, devices)).crossings == devices - 1


@pytest.mark.parametrize("asked", [None, "contiguous"])
def test_contiguous_is_the_default_and_follows_the_measured_costs(
    asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement_module, "measure_stage_costs", lambda *_: [1.0, 1.0, 1.0, 9.0])
    config = RunConfig(strategy="model_parallel", placement=asked)
    chosen = choose_placement(Cut([nn.Identity()] * 4, torch.zeros(1)), mesh_of(2), config)
    assert chosen == Placement((0, 0, 0, 1), (1.0, 1.0, 1.0, 9.0))
    assert chosen.crossings == 1


def stages_with_everything_that_training_changes() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)),
        nn.Linear(8, 2),
    ]


def test_measuring_costs_leaves_the_model_and_the_generators_as_they_were() -> None:
    stages = stages_with_everything_that_training_changes()
    model = nn.Sequential(*stages).train()
    before = deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    sample = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    untouched = sample.clone()
    costs = measure_stage_costs(Cut(stages, sample), CPU)
    assert len(costs) == 4
    assert all(cost > 0 for cost in costs)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(sample, untouched)


class Watched(nn.Module):
    """Notes whether its input needs a gradient, and how often its backward ran."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.needed: list[bool] = []
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.needed.append(x.requires_grad)
        out = x * self.weight
        out.register_hook(self.count)
        return out

    def count(self, _: Tensor) -> None:
        self.backwards += 1


def test_costs_hold_forward_and_backward_and_only_the_first_input_needs_no_gradient() -> None:
    stages = [Watched(), Watched(), Watched()]
    measure_stage_costs(Cut(stages, torch.ones(2)), CPU)
    assert [set(stage.needed) for stage in stages] == [{False}, {True}, {True}]
    assert [stage.backwards for stage in stages] == [COST_REPEATS] * 3


def test_stages_without_a_backward_are_measured_too() -> None:
    frozen = nn.Linear(8, 8).requires_grad_(False)
    costs = measure_stage_costs(
        Cut([nn.Flatten(), frozen, nn.Linear(8, 2)], torch.ones(2, 2, 4)), CPU
    )
    assert len(costs) == 3


def test_the_stages_see_each_others_outputs() -> None:
    seen: list[tuple[int, ...]] = []
    stages = [nn.Linear(8, 4), nn.Linear(4, 6), nn.Linear(6, 2)]
    for stage in stages:
        stage.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out.shape)))
    measure_stage_costs(Cut(stages, torch.ones(2, 8)), CPU)
    assert list(dict.fromkeys(seen)) == [(2, 4), (2, 6), (2, 2)]
