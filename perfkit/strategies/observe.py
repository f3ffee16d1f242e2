"""Watching stages through hooks: what device and dtype they really have, and their ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

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
    """Raise PerfkitError unless every stage was seen on one device, and all on that many.

    A "model parallel" run whose stages share a device is serial training under another name, and
    so is one whose activations arrive on one device while the parameters lie on another.
    """
    for rank in sorted({observation.rank for observation in observed}):
        seen: dict[str, list[int]] = {}
        astray = False
        for observation in observed:
            if observation.rank != rank:
                continue
            devices = {*observation.parameter_devices, *observation.input_devices}
            astray |= len(devices) > 1
            for device in devices:
                seen.setdefault(device, []).append(observation.stage)
        if astray or len(seen) != devices_per_rank:
            places = "; ".join(f"{device}: stages {stages}" for device, stages in seen.items())
            raise PerfkitError(
                f"rank {rank} was to spread its stages over {devices_per_rank} devices, each on "
                f"one, and they were seen on {len(seen)} ({places}); something moved the model "
                "afterwards"
            )


@contextmanager
def stage_ranges(stages: Sequence[nn.Module]) -> Iterator[None]:
    """Open a range around every stage's forward and backward for the duration of the block.

    The backward of a stage reaches from the gradient of its output to that of its input, or to
    those of its parameters where the input needs none. A stage whose output needs no gradient
    has no backward and no range for it; see ``range_names``.
    """
    watchers = [_StageRanges(index) for index in range(len(stages))]
    handles: list[Any] = []
    for stage, watcher in zip(stages, watchers, strict=True):
        handles.append(stage.register_forward_pre_hook(watcher.before_forward))
        handles.append(stage.register_forward_hook(watcher.after_forward))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for watcher in watchers:
            watcher.close()


def range_names(stages: Sequence[nn.Module]) -> list[str]:
    """Return the names of the ranges that ``stage_ranges`` opens in a training step."""
    names = []
    needs_gradient = False
    for index, stage in enumerate(stages):
        needs_gradient |= any(parameter.requires_grad for parameter in stage.parameters())
        names.append(f"stage{index}.forward")
        names += [f"stage{index}.backward"] if needs_gradient else []
    return names


class _StageRanges:
    """The ranges of one stage.

    Its backward is watched through its tensors: a module's full backward hooks put a view around
    its inputs and outputs, which an in-place ReLU may not write to.
    """

    def __init__(self, index: int) -> None:
        self._name = f"stage{index}"
        self._forward: OpenRange | None = None
        self._backward: _BackwardRange | None = None

    def before_forward(self, stage: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.close()
        self._forward = OpenRange(f"{self._name}.forward")
        # Before the stage can write to its input: from then on this is another tensor.
        ends = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        ends = ends or [p for p in stage.parameters() if p.requires_grad]
        if ends and torch.is_grad_enabled():
            self._backward = _BackwardRange(f"{self._name}.backward", ends)

    def after_forward(self, stage: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._forward is not None:
            self._forward.close()
            self._forward = None
        if self._backward is not None and isinstance(output, Tensor) and output.grad_fn is not None:
            output.grad_fn.register_prehook(self._backward.open)

    def close(self) -> None:
        """Close what an exception or a forward without backward left open."""
        if self._forward is not None:
            self._forward.close()
            self._forward = None
        if self._backward is not None:
            self._backward.close()
            self._backward = None


class _BackwardRange:
    """Opened by the first node of a stage's backward, closed by the gradients of ``ends``."""

    def __init__(self, name: str, ends: Sequence[Tensor]) -> None:
        self._name = name
        self._range: OpenRange | None = None
        self._is_over = False
        self._handle = register_multi_grad_hook(ends, self.close)

    def open(self, *_: Any) -> None:
        self._range = OpenRange(self._name)
        if self._is_over:  # the output is the input itself: there is nothing in between
            self.close()

    def close(self, *_: Any) -> None:
        self._is_over = True
        self._handle.remove()
        if self._range is not None:
            self._range.close()
            self._range = None


def _distinct(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
