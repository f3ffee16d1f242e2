"""Times of steps and phases follow from the host clock, and from CUDA events, alone."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from perfkit.core.record import StepSample
from perfkit.measure.recorder import PHASES, StepRecorder


class FakeClock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def take_step(
    recorder: StepRecorder,
    clock: FakeClock,
    phases: dict[str, float],
    *,
    between_s: float = 0.0,
    loss: float = 0.5,
    communication_s: float | None = None,
) -> None:
    with recorder.step():
        for name, seconds in phases.items():
            with recorder.phase(name):
                clock.advance(seconds)
            clock.advance(between_s)
        recorder.finish(torch.tensor(loss, requires_grad=True), communication_s)


def test_a_phase_takes_as_long_as_its_block_and_a_step_as_long_as_all_of_it(
    clock: FakeClock,
) -> None:
    recorder = StepRecorder(clock=clock)
    seconds = dict(zip(PHASES, (0.5, 0.25, 1.0, 2.0, 0.125), strict=True))
    take_step(recorder, clock, seconds, between_s=0.0625)
    (sample,) = recorder.samples()
    # Powers of two, so that nothing is rounded.
    assert sample.phases_s == seconds
    assert sample.host_s == 0.5 + 0.25 + 1.0 + 2.0 + 0.125 + 5 * 0.0625


def test_time_between_steps_belongs_to_none(clock: FakeClock) -> None:
    recorder = StepRecorder(clock=clock)
    for _ in range(3):
        take_step(recorder, clock, {"forward": 1.0})
        clock.advance(100.0)
    assert [sample.host_s for sample in recorder.samples()] == [1.0, 1.0, 1.0]


def test_each_step_keeps_its_own_times_loss_and_communication(clock: FakeClock) -> None:
    recorder = StepRecorder(clock=clock)
    take_step(recorder, clock, {"forward": 1.0}, loss=3.0, communication_s=0.25)
    take_step(recorder, clock, {"forward": 2.0}, loss=1.5, communication_s=None)
    assert recorder.samples() == [
        StepSample(
            host_s=seconds,
            phases_s={"forward": seconds},
            device_phases_s={},
            communication_s=communication_s,
            loss=loss,
        )
        for seconds, loss, communication_s in ((1.0, 3.0, 0.25), (2.0, 1.5, None))
    ]


def test_a_loss_that_is_no_number_is_recorded_as_none(clock: FakeClock) -> None:
    recorder = StepRecorder(clock=clock)
    take_step(recorder, clock, {"forward": 1.0}, loss=float("nan"))
    assert recorder.samples()[0].loss is None


class Activation:
    """What a graph holds on to until it is freed."""


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, activation: Activation) -> Tensor:
        ctx.activation = activation
        return tensor * 2


def test_the_graph_behind_a_loss_is_let_go(clock: FakeClock) -> None:
    recorder = StepRecorder(clock=clock)
    activation = Activation()
    kept = weakref.ref(activation)
    with recorder.step():
        loss = Double.apply(torch.ones((), requires_grad=True), activation)
        recorder.finish(loss, None)
    del loss, activation
    assert kept() is None
    assert recorder.samples()[0].loss == 2.0


def test_no_step_is_no_sample() -> None:
    assert StepRecorder().samples() == []


class FakeGpus:
    """CUDA events of several devices, each of which works for as long as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy_ms: dict[torch.device, float] = {}
        self.waits: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "Event", self.event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
        monkeypatch.setattr(torch.cuda, "synchronize", self.waits.append)

    def work(self, device: torch.device, ms: float) -> None:
        self.busy_ms[device] = self.busy_ms.get(device, 0.0) + ms

    def event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpus: FakeGpus) -> None:
        self._gpus = gpus
        self._at_ms = 0.0

    def record(self, stream: torch.device) -> None:
        self._at_ms = self._gpus.busy_ms.get(stream, 0.0)

    def elapsed_time(self, end: FakeEvent) -> float:
        return end._at_ms - self._at_ms


def test_a_phase_takes_as_long_as_on_its_slowest_device_and_only_the_end_waits_for_them(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = FakeGpus(monkeypatch)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    recorder = StepRecorder([first, second], clock)
    for forward_ms in (250.0, 125.0):
        with recorder.step():
            with recorder.phase("forward"):
                gpus.work(first, 62.5)
                gpus.work(second, forward_ms)
            gpus.work(first, 1000.0)  # in no phase
            with recorder.phase("backward"):
                gpus.work(first, 500.0)
            recorder.finish(torch.tensor(0.5), None)
    assert gpus.waits == []
    samples = recorder.samples()
    assert gpus.waits == [first, second]
    assert [sample.device_phases_s for sample in samples] == [
        {"forward": 0.25, "backward": 0.5},
        {"forward": 0.125, "backward": 0.5},
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_every_phase_has_a_time_of_its_own_by_events(clock: FakeClock) -> None:
    device = torch.device("cuda", 0)
    recorder = StepRecorder([device], clock)
    matrix = torch.ones(2048, 2048, device=device)
    with recorder.step():
        with recorder.phase("forward"):
            for _ in range(20):
                matrix = matrix @ matrix
        with recorder.phase("backward"):
            pass
        recorder.finish(matrix.sum(), None)
    (sample,) = recorder.samples()
    assert sample.device_phases_s.keys() == {"forward", "backward"}
    assert sample.device_phases_s["forward"] > sample.device_phases_s["backward"] >= 0.0
    assert sample.phases_s == {"forward": 0.0, "backward": 0.0}  # the host clock stood still
