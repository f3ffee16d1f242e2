"""Times of steps and their phases: the host clock, and CUDA events beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from perfkit.core.annotate import annotate
from perfkit.core.record import StepSample

Clock = Callable[[], float]

PHASES = ("data_wait", "host_to_device", "forward", "backward", "optimizer")


class StepRecorder:
    """Collects the steps of one block without waiting for any device until ``samples``.

    A step that ``finish`` is not called in, as in a loop of somebody's own, has no loss.

    ``clock`` returns seconds. On CUDA each phase is bracketed by events on every device of the
    rank; the phase took as long as on the device where it took longest.
    """

    def __init__(
        self, cuda_devices: Sequence[torch.device] = (), clock: Clock = perf_counter
    ) -> None:
        self._clock = clock
        self._cuda_devices = cuda_devices
        self._steps: list[dict[str, Any]] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step around its phases, also a range in a trace."""
        self._steps.append({"phases": {}, "events": {}})
        with annotate("step"):
            started = self._clock()
            yield
            self._steps[-1]["host_s"] = self._clock() - started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One phase of the current step, also a range in a trace."""
        step = self._steps[-1]
        started = self._clock()
        with annotate(name):
            before = self._record_events()
            yield
            if before:
                step["events"][name] = list(zip(before, self._record_events(), strict=True))
        step["phases"][name] = self._clock() - started

    def finish(self, loss: Tensor, communication_s: float | None, *, skipped: bool = False) -> None:
        """Note what the current step came to; the loss stays on its device."""
        self._steps[-1].update(loss=loss.detach(), communication_s=communication_s, skipped=skipped)

    def forget_step(self) -> None:
        """Leave out the step that was begun last: the data had come to an end."""
        self._steps.pop()

    def samples(self) -> list[StepSample]:
        """Wait for the devices once and return the steps so far."""
        for device in self._cuda_devices:
            torch.cuda.synchronize(device)
        return [
            StepSample(
                host_s=step["host_s"],
                phases_s=step["phases"],
                device_phases_s={
                    name: max(start.elapsed_time(end) for start, end in pairs) / 1e3
                    for name, pairs in step["events"].items()
                },
                communication_s=step.get("communication_s"),
                loss=float(step["loss"]) if "loss" in step else None,
                skipped=step.get("skipped", False),
            )
            for step in self._steps
        ]

    def _record_events(self) -> list[torch.cuda.Event]:
        events = []
        for device in self._cuda_devices:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(device))
            events.append(event)
        return events
