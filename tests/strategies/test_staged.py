"""A model on several devices computes what it computes on one, and its crossings are real."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from perfkit.strategies.base import Device
from perfkit.strategies.placement import Placement
from perfkit.strategies.staged import StagedModel, Transfers, device_name

CPU = torch.device("cpu")
STAND_INS = tuple(Device(CPU, f"stand-in:{index}") for index in range(4))
PLACEMENTS = [(0, 0, 0, 0, 0), (0, 0, 0, 1, 1), (0, 1, 0, 1, 0), (0, 1, 2, 3, 3)]


def unsplit() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 2),
    ).double()


def staged(model: nn.Sequential, devices: tuple[int, ...]) -> StagedModel:
    return StagedModel(model, list(model), STAND_INS, Placement(devices))


def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Tensor, Tensor]]:
    """What crossed: source, target, the tensor before and the one after."""
    seen: list[tuple[str, str, Tensor, Tensor]] = []
    original = Transfers.move

    def move(self: Transfers, tensor: Tensor, source: Device, target: Device) -> Tensor:
        moved = original(self, tensor, source, target)
        seen.append((source.name, target.name, tensor, moved))
        return moved

    monkeypatch.setattr(Transfers, "move", move)
    return seen


@pytest.mark.parametrize("devices", PLACEMENTS)
def test_outputs_gradients_and_buffers_are_exactly_those_of_the_unsplit_model(
    devices: tuple[int, ...],
) -> None:
    whole = unsplit()
    parts = staged(deepcopy(whole), devices)
    for model in (whole, parts):
        for _ in range(2):
            model(images()).square().sum().backward()
    assert torch.equal(parts(images()), whole(images()))
    whole_named, parts_named = dict(whole.named_parameters()), dict(parts.named_parameters())
    assert parts_named.keys() == {f"model.{name}" for name in whole_named}
    for name, parameter in whole_named.items():
        found, wanted = parts_named[f"model.{name}"].grad, parameter.grad
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)
    for name, buffer in whole.named_buffers():
        assert torch.equal(dict(parts.named_buffers())[f"model.{name}"], buffer)


@pytest.mark.parametrize("devices", PLACEMENTS)
def test_what_crosses_goes_forward_once_and_its_gradient_back_once(
    devices: tuple[int, ...], moves: list[tuple[str, str, Tensor, Tensor]]
) -> None:
    model = staged(unsplit(), devices)
    loss = model(images()).sum()
    there = [(f"stand-in:{a}", f"stand-in:{b}") for a, b in pairwise(devices) if a != b]
    assert [move[:2] for move in moves] == there
    loss.backward()
    back = [(target, source) for source, target in reversed(there)]
    assert [move[:2] for move in moves] == there + back


def test_a_stand_in_crossing_really_copies_in_both_directions(
    moves: list[tuple[str, str, Tensor, Tensor]],
) -> None:
    staged(unsplit(), (0, 1, 0, 1, 0))(images()).sum().backward()
    assert len(moves) == 8
    for source, target, before, after in moves:
        assert source != target
        assert before.untyped_storage().data_ptr() != after.untyped_storage().data_ptr()
        assert torch.equal(before, after)
        assert device_name(after) == target


def test_crossings_and_their_time_are_counted_from_one_take_to_the_next() -> None:
    model = staged(unsplit(), (0, 1, 0, 1, 0))
    for _ in range(2):
        model(images()).sum().backward()
    moved = model.transfers.take()
    assert moved.crossings == 8
    assert moved.host_s > 0
    assert model.transfers.take() == (0, 0.0)
    staged_once = staged(unsplit(), (0, 0, 0, 0, 0))
    staged_once(images()).sum().backward()
    assert staged_once.transfers.take() == (0, 0.0)


def test_every_copy_lies_inside_a_range_that_names_its_ends() -> None:
    model = staged(unsplit(), (0, 0, 1, 1, 0))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(images()).sum().backward()
    ranges = [e for e in profiler.events() if e.name.startswith("perfkit.transfer")]
    there, back = (
        "perfkit.transfer stand-in:0 to stand-in:1",
        "perfkit.transfer stand-in:1 to stand-in:0",
    )
    assert sorted(event.name for event in ranges) == [there, there, back, back]
    for event in ranges:
        assert [child.name for child in event.cpu_children] == ["aten::clone"]


def test_stages_outputs_and_the_loss_are_on_the_devices_of_the_placement() -> None:
    model = staged(unsplit(), (0, 1, 2, 3, 3))
    for stage, device in zip(model.stages, (0, 1, 2, 3, 3), strict=True):
        for tensor in (*stage.parameters(), *stage.buffers()):
            assert device_name(tensor) == f"stand-in:{device}"
    assert device_name(model(images())) == "stand-in:3"
    assert model.output_device == CPU


def test_an_input_that_is_a_leaf_gets_its_gradient() -> None:
    whole = unsplit()
    parts = staged(deepcopy(whole), (0, 1, 0, 1, 0))
    inputs = [images().requires_grad_() for _ in range(2)]
    for model, x in zip((whole, parts), inputs, strict=True):
        model(x).sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.equal(inputs[0].grad, inputs[1].grad)
