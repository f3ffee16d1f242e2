"""A short window of training steps, recorded by torch.profiler."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch.profiler
from torch.profiler import ProfilerActivity

from perfkit.core.files import replacing
from perfkit.trace.nsight import capture_window, under_nsys

WARMUP_STEPS = 1
"""Steps that run before the traced ones and are not recorded."""

# severity:date time process:thread file:line] message
_LOG_LINE = r"^(?:%s):\d{4}-\d\d-\d\d [\d:]+ \d+:\d+ %s\.cpp:\d+\] "
_PROGRESS = re.compile((_LOG_LINE % ("VERBOSE|INFO|STAGE|USDT", r"\w+")).encode())
_NO_DRIVER = re.compile((_LOG_LINE % ("ERROR", "DeviceProperties")).encode())


@contextmanager
def _without_chatter(*, cuda: bool) -> Iterator[None]:
    """Drop Kineto's progress lines from stderr, and nothing else.

    They are written by C++ straight to file descriptor 2. What other threads write meanwhile,
    warnings and errors come out afterwards; if the block raises, every line does.
    """

    def is_chatter(line: bytes) -> bool:
        # A CUDA build of torch reports a missing driver as an error, in a CPU-only trace too.
        return bool(_PROGRESS.match(line) or (not cuda and _NO_DRIVER.match(line)))

    if sys.stderr is not None:
        sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not (succeeded and is_chatter(line)):
                    os.write(2, line)


class _QuietProfile(torch.profiler.profile):
    """torch.profiler.profile without Kineto's lines on stderr."""

    def prepare_trace(self) -> None:
        with _without_chatter(cuda=ProfilerActivity.CUDA in self.activities):
            super().prepare_trace()

    def start_trace(self) -> None:
        with _without_chatter(cuda=ProfilerActivity.CUDA in self.activities):
            super().start_trace()

    def stop_trace(self) -> None:
        with _without_chatter(cuda=ProfilerActivity.CUDA in self.activities):
            super().stop_trace()


class CapturedSteps:
    """Told of the end of every step of a capture; knows which of them are traced."""

    def __init__(
        self, steps: int, profiler: torch.profiler.profile | None, window: ExitStack, *, cuda: bool
    ) -> None:
        self.taken = 0
        self.expected = WARMUP_STEPS + steps
        self._profiler = profiler
        self._window = window
        self._cuda = cuda

    def step(self) -> None:
        """Note that a step has ended, on the devices too."""
        self.taken += 1
        # Opened before the profiler's trace and closed after it, the window does not show in it.
        if self.taken == WARMUP_STEPS:
            self._window.enter_context(capture_window(cuda=self._cuda))
        if self._profiler is not None:
            self._profiler.step()
        if self.taken == self.expected:
            self._window.close()


@contextmanager
def capture(path: Path, *, steps: int, cuda: bool) -> Iterator[CapturedSteps]:
    """Record ``steps`` training steps and write them to ``path`` as gzip JSON.

    Run ``WARMUP_STEPS + steps`` steps inside the block and call ``step()`` of what it yields after
    each. The trace then holds the ranges ``ProfilerStep#1`` to ``ProfilerStep#<steps>``, one a
    step. ``steps`` must be known beforehand: the profiler opens the range of the next step as soon
    as one ends, so it has to stop by itself at the end of the last one, or the trace would end
    with an empty step. Operator shapes are recorded, stacks are not.

    The file is written when the block ends, under a temporary name that is renamed; when the
    block raises, no file is left. A process may run only one capture at a time.

    With ``cuda`` the traced steps are also the window that Nsight captures. Under Nsight Systems
    torch's profiler stays off, since both need CUPTI, and no file is written.

    Raises:
        ValueError: ``steps`` is less than one.
        RuntimeError: the block ended after more or fewer calls of ``step()``.
    """
    if steps < 1:
        raise ValueError(f"a trace needs at least one step, not {steps}")
    profiler = None if under_nsys(os.environ) else _profiler(steps, cuda=cuda)
    with ExitStack() as window, profiler or nullcontext():
        captured = CapturedSteps(steps, profiler, window, cuda=cuda)
        yield captured
    if captured.taken != captured.expected:
        raise RuntimeError(
            f"the capture saw {captured.taken} steps instead of {captured.expected} "
            f"({WARMUP_STEPS} of warm-up, {steps} traced): call step() after each of them"
        )
    if profiler is not None:
        with replacing(path) as temporary:
            profiler.export_chrome_trace(str(temporary))


def _profiler(steps: int, *, cuda: bool) -> torch.profiler.profile:
    activities = [ProfilerActivity.CPU]
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=0, warmup=WARMUP_STEPS, active=steps, repeat=1)
    return _QuietProfile(activities=activities, schedule=schedule, record_shapes=True)
