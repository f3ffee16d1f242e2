"""What hooks see of the stages: their devices and dtypes, and ranges around their work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from perfkit.core.errors import PerfkitError
from perfkit.core.record import StageObservation
from perfkit.strategies import observe, staged
from perfkit.strategies.base import Device
from perfkit.strategies.observe import (
    StageObserver,
    check_stages_apart,
    range_names,
    stage_ranges,
)
from perfkit.strategies.placement import Placement
from perfkit.strategies.staged import StagedModel, place

CPU = torch.device("cpu")
STAND_INS = tuple(Device(CPU, f"stand-in:{index}") for index in range(2))


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2))


def split(model: nn.Sequential, devices: tuple[int, ...] = (0, 0, 1, 1)) -> StagedModel:
    return StagedModel(model, list(model), STAND_INS, Placement(devices))


def watch(model: nn.Module, stages: Sequence[nn.Module], inputs: Tensor) -> list[StageObservation]:
    observer = StageObserver(stages, rank=3)
    with observer.watching():
        model(inputs)
    return observer.report()


def test_each_stage_is_reported_with_the_devices_and_dtypes_it_was_seen_with() -> None:
    model = split(chain())
    seen = watch(model, model.stages, torch.ones(2, 8))
    assert [(o.rank, o.stage, o.modules, o.parameters) for o in seen] == [
        (3, 0, 1, 54),
        (3, 1, 1, 0),
        (3, 2, 1, 28),
        (3, 3, 1, 10),
    ]
    first, second = ["stand-in:0"], ["stand-in:1"]
    assert [o.parameter_devices for o in seen] == [first, [], second, second]
    assert [o.input_devices for o in seen] == [first, first, second, second]
    assert [o.output_devices for o in seen] == [first, first, second, second]
    assert {tuple(o.activation_dtypes) for o in seen} == {("torch.float32",)}
    assert {tuple(o.parameter_dtypes) for o in seen} == {(), ("torch.float32",)}
    check_stages_apart(seen, 2)


def test_dtypes_are_those_of_the_tensors_and_not_those_that_were_asked_for() -> None:
    model = chain().double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = watch(model.float(), list(model), torch.ones(2, 8))
    assert seen[0].parameter_dtypes == ["torch.float32"]
    assert seen[0].activation_dtypes == ["torch.bfloat16", "torch.float32"]
    assert seen[1].activation_dtypes == ["torch.bfloat16"]
    assert watch(model.double(), list(model), torch.ones(2, 8).double())[0].parameter_dtypes == [
        "torch.float64"
    ]


def test_only_what_happens_inside_the_block_is_reported_and_only_once() -> None:
    model = chain()
    observer = StageObserver(list(model), rank=0)
    with observer.watching():
        model(torch.ones(2, 8))
    model(torch.ones(2, 8).double().float())
    assert observer.report()[0].input_devices == ["cpu"]
    assert observer.report()[0].input_devices == []
    assert not any(stage._forward_hooks for stage in model)


def test_stages_that_share_one_device_are_an_error() -> None:
    model = split(chain(), (0, 0, 0, 0))
    seen = watch(model, model.stages, torch.ones(2, 8))
    with pytest.raises(PerfkitError, match="rank 3 was to spread its stages over 2 devices") as e:
        check_stages_apart(seen, 2)
    assert "stand-in:0: stages [0, 1, 2, 3]" in str(e.value)
    assert "\n" not in str(e.value)


def undone_by_placing_all_on_the_first(model: StagedModel) -> None:
    for stage in model.stages:
        place(stage, STAND_INS[0])


def undone_by_placing_one_on_the_other(model: StagedModel) -> None:
    place(model.stages[3], STAND_INS[0])


def undone_by_new_parameters(model: StagedModel) -> None:
    for stage in model.stages:
        for name, parameter in list(stage.named_parameters()):
            setattr(stage, name, nn.Parameter(parameter.detach().clone()))


@pytest.mark.parametrize(
    "undo",
    [
        undone_by_placing_all_on_the_first,
        undone_by_placing_one_on_the_other,
        undone_by_new_parameters,
    ],
)
def test_a_model_whose_placement_was_undone_is_caught(undo: Any) -> None:
    model = split(chain())
    undo(model)
    seen = watch(model, model.stages, torch.ones(2, 8))
    with pytest.raises(PerfkitError, match="something moved the model afterwards"):
        check_stages_apart(seen, 2)


def test_every_rank_is_checked_by_itself() -> None:
    apart, together = split(chain()), split(chain(), (0, 0, 0, 0))
    good = watch(apart, apart.stages, torch.ones(2, 8))
    bad = watch(together, together.stages, torch.ones(2, 8))
    moved = [o.model_copy(update={"rank": 4}) for o in bad]
    with pytest.raises(PerfkitError, match="rank 4 "):
        check_stages_apart([*good, *moved], 2)
    check_stages_apart([*good, *(o.model_copy(update={"rank": 4}) for o in good)], 2)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Openings ("+name") and closings ("-name") of ranges, in the order they happened."""
    happened: list[str] = []

    class Range:
        def __init__(self, name: str) -> None:
            self._name = name
            happened.append(f"+{name}")

        def close(self) -> None:
            happened.append(f"-{self._name}")

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            self.close()

    monkeypatch.setattr(observe, "OpenRange", Range)
    monkeypatch.setattr(staged, "annotate", Range)
    return happened


def around(*names: str) -> list[str]:
    return [f"{sign}{name}" for name in names for sign in "+-"]


def forwards(count: int) -> list[str]:
    return around(*(f"stage{index}.forward" for index in range(count)))


def backwards(*stages: int) -> list[str]:
    return around(*(f"stage{index}.backward" for index in stages))


class Unused(nn.Module):
    """Has a parameter that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


@pytest.mark.parametrize(
    ("stages", "with_backward"),
    [
        pytest.param([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)], [2, 1, 0], id="linear"),
        pytest.param([nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)], [2, 1, 0], id="middle"),
        pytest.param([nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 8)], [2, 1], id="bare first"),
        pytest.param(
            [nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 8)], [1], id="frozen first"
        ),
        pytest.param(
            [nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False)], [1, 0], id="frozen last"
        ),
        pytest.param(
            [nn.Linear(8, 8), nn.ReLU(inplace=True), nn.BatchNorm1d(8)], [2, 1, 0], id="in place"
        ),
        pytest.param([Unused(), nn.Linear(8, 8)], [1, 0], id="unused parameter"),
        pytest.param([nn.Tanh(), nn.Tanh()], [], id="nothing to train"),
    ],
)
def test_every_stage_has_its_ranges_in_every_step_one_after_the_other(
    stages: list[nn.Module], with_backward: list[int], log: list[str]
) -> None:
    model = nn.Sequential(*stages)
    step = forwards(len(stages)) + backwards(*with_backward)
    with stage_ranges(stages):
        for _ in range(2):
            loss = model(torch.randn(4, 8)).square().sum()
            if loss.requires_grad:
                loss.backward()
    assert log == step * 2
    assert sorted(range_names(stages)) == sorted({entry[1:] for entry in step})


def test_a_stage_that_hands_its_input_on_has_an_empty_backward_range(log: list[str]) -> None:
    stages = [nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 8)]
    with stage_ranges(stages):
        nn.Sequential(*stages)(torch.randn(4, 8)).sum().backward()
    # Stage 1 works between the same two nodes as stage 0's end, so its range is inside.
    assert log == [
        *forwards(3),
        *backwards(2),
        "+stage0.backward",
        *backwards(1),
        "-stage0.backward",
    ]


def test_transfers_lie_between_the_ranges_of_the_stages(log: list[str]) -> None:
    model = split(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), (0, 1))
    with stage_ranges(model.stages):
        model(torch.randn(4, 8)).sum().backward()
    assert log == around(
        "stage0.forward",
        "transfer stand-in:0 to stand-in:1",
        "stage1.forward",
        "stage1.backward",
        "transfer stand-in:1 to stand-in:0",
        "stage0.backward",
    )


def test_gradients_are_the_same_with_and_without_ranges(log: list[str]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    inputs = torch.randn(4, 8)
    model(inputs).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with stage_ranges(list(model)):
        model(inputs).sum().backward()
    for before, parameter in zip(gradients, model.parameters(), strict=True):
        assert before is not None
        assert parameter.grad is not None
        assert torch.equal(before, parameter.grad)


def test_evaluation_opens_no_backward_range(log: list[str]) -> None:
    model = chain()
    with stage_ranges(list(model)), torch.no_grad():
        model(torch.ones(2, 8))
    assert log == forwards(4)


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError


def test_after_the_block_nothing_is_open_and_no_hook_is_left(log: list[str]) -> None:
    stages = [nn.Linear(8, 8), Fails()]
    with pytest.raises(ZeroDivisionError), stage_ranges(stages):
        nn.Sequential(*stages)(torch.ones(2, 8))
    assert sorted(log) == sorted([*forwards(2)])
    log.clear()
    model = nn.Sequential(*(good := [nn.Linear(8, 8), nn.Linear(8, 8)]))
    with stage_ranges(good):
        kept = model(torch.ones(2, 8)).sum()  # its backward comes after the block
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert not any(stage._forward_hooks or stage._forward_pre_hooks for stage in good)
    log.clear()
    model(torch.ones(2, 8)).sum().backward()
    assert log == []
    kept.backward()
    assert log == backwards(1, 0)  # a range that opens late is still closed


def test_ranges_appear_in_a_trace_under_their_prefix() -> None:
    stages = list(chain())
    with profile(activities=[ProfilerActivity.CPU]) as profiler, stage_ranges(stages):
        nn.Sequential(*stages)(torch.ones(2, 8)).sum().backward()
    found = {event.name for event in profiler.events() if event.name.startswith("perfkit.stage")}
    assert found == {f"perfkit.{name}" for name in range_names(stages)}
    assert len(found) == 8
