"""Nsight Systems: whether it watches this process, and the window that it captures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.cuda.profiler

_SESSION = "NSYS_PROFILING_SESSION_ID"
_INJECTIONS = ("NVTX_INJECTION64_PATH", "CUDA_INJECTION64_PATH")
_LIBRARY = "libToolsInjection"


def under_nsys(environ: Mapping[str, str]) -> bool:
    """Return whether Nsight Systems started the process with this environment.

    It gives its session an id. A program that waits for ``nsys start`` has none yet, but is told
    to load Nsight's library. Another tool's library in the same variables does not count.
    """
    return bool(environ.get(_SESSION)) or any(
        _LIBRARY in environ.get(name, "") for name in _INJECTIONS
    )


@contextmanager
def capture_window(*, cuda: bool) -> Iterator[None]:
    """Make the block what ``nsys profile --capture-range=cudaProfilerApi`` captures.

    Without a GPU CUDA's profiler cannot be started: say by ``cuda`` whether there is one.
    """
    if not cuda:
        yield
        return
    torch.cuda.profiler.start()
    try:
        yield
    finally:
        torch.cuda.profiler.stop()
