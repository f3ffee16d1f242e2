"""Watching stages through hooks: what device and dtype they really have, and their ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from perfkit.core.annotate import OpenRange
from perfkit.core.errors import PerfkitError
from perfkit.core.record import StageObservation
from perfkit.strategies.staged import device_name


class StageObserver:
    """Collects what the stages of one rank are made of and what goes through them."""

    def __init__(self, stages: Sequence[nn.Module], rank: int) -> None:
        self._stages = stages
        self._rank = rank
        self._inputs: list[list[Tensor]] = [[] for _ in stages]
        self._outputs: list[list[Tensor]] = [[] for _ in stages]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the stages for the duration of the block."""
        handles = [
            stage.register_forward_hook(self._note(index))
            for index, stage in enumerate(self._stages)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._inputs[index] += [value for value in inputs if isinstance(value, Tensor)]
            self._outputs[index] += [output] if isinstance(output, Tensor) else []

        return hook

    def report(self) -> list[StageObservation]:
        """Return what was seen, and let go of it."""
        observations = []
        for index, stage in enumerate(self._stages):
            parameters = list(stage.parameters())
            inputs, outputs = self._inputs[index], self._outputs[index]
            observations.append(
                StageObservation(
                    rank=self._rank,
                    stage=index,
                    modules=sum(1 for _ in stage.modules()),
                    parameters=sum(parameter.numel() for parameter in parameters),
                    parameter_devices=_distinct(device_name(p) for p in parameters),
                    parameter_dtypes=_distinct(str(p.dtype) for p in parameters),
                    input_devices=_distinct(device_name(x) for x in inputs),
                    output_devices=_distinct(device_name(y) for y in outputs),
                    activation_dtypes=_distinct(str(t.dtype) for t in (*inputs, *outputs)),
                )
            )
        self._inputs = [[] for _ in self._stages]
        self._outputs = [[] for _ in self._stages]
        return observations


def check_stages_apart(observed: Sequence[StageObservation], devices_per_rank: int) -> None:
    """Raise PerfkitError unless the stages of every rank were seen on that many devices.

    A "model parallel" run whose stages share a device is serial training under another name.
    """
    for rank in sorted({observation.rank for observation in observed}):
        seen: dict[str, list[int]] = {}
        for observation in observed:
            if observation.rank != rank:
                continue
            for device in {*observation.parameter_devices, *observation.input_devices}:
                seen.setdefault(device, []).append(observation.stage)
        if len(seen) != devices_per_rank:
            places = "; ".join(f"{device}: stages {stages}" for device, stages in seen.items())
            raise PerfkitError(
                f"rank {rank} was to spread its stages over {devices_per_rank} devices and they "
                f"were seen on {len(seen)} ({places}); something moved the model afterwards"
            )


@contextmanager
def stage_ranges(stages: Sequence[nn.Module]) -> Iterator[None]:
    """Open a range around every stage's forward and backward for the duration of the block."""
    open_ranges: dict[str, OpenRange] = {}

    def opener(name: str) -> Any:
        def hook(*_: Any) -> None:
            open_ranges[name] = OpenRange(name)

        return hook

    def closer(name: str) -> Any:
        def hook(*_: Any) -> None:
            open_ranges.pop(name).close()

        return hook

    handles: list[Any] = []
    for index, stage in enumerate(stages):
        forward, backward = f"stage{index}.forward", f"stage{index}.backward"
        handles.append(stage.register_forward_pre_hook(opener(forward)))
        handles.append(stage.register_forward_hook(closer(forward)))
        handles.append(stage.register_full_backward_pre_hook(opener(backward)))
        if index == 0:
            # Its input needs no gradient, so that torch has no moment at which to call a full
            # backward hook: its backward is over when the gradients of its parameters are.
            handles += _close_after_parameters(stage, open_ranges, backward)
        else:
            handles.append(stage.register_full_backward_hook(closer(backward)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for left_open in open_ranges.values():
            left_open.close()


def _close_after_parameters(
    stage: nn.Module, open_ranges: dict[str, OpenRange], name: str
) -> list[Any]:
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    waiting: set[int] = set()

    def hook(parameter: Tensor) -> None:
        if not waiting:
            waiting.update(id(p) for p in parameters)
        waiting.discard(id(parameter))
        if not waiting and name in open_ranges:
            open_ranges.pop(name).close()

    return [p.register_post_accumulate_grad_hook(hook) for p in parameters]


def _distinct(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
