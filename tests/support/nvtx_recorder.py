"""NVTX ranges of a process and its children, written down by ``nvtx_recorder.cpp``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import orjson

SOURCE = Path(__file__).with_name("nvtx_recorder.cpp")


@dataclass(frozen=True)
class Range:
    """One range; ``opened`` and ``closed`` are lines of the log, in the order things happened."""

    name: str
    domain: str
    pid: int
    thread: int
    opened: int
    closed: int
    closing_thread: int
    scoped: bool  # push/pop, which nest on their thread; else start/end

    def holds(self, other: Range) -> bool:
        return self.pid == other.pid and self.opened < other.opened < other.closed < self.closed


def build_recorder(folder: Path) -> Path:
    """Compile the library into ``folder`` and return its path."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    assert compiler is not None, "no C++ compiler: the NVTX recorder cannot be built"
    library = folder / "nvtx_recorder.so"
    flags = ("-std=c++17", "-shared", "-fPIC", "-isystem", str(_headers()))
    subprocess.run((compiler, *flags, str(SOURCE), "-o", str(library)), check=True)
    return library


def _headers() -> Path:
    """Return the folder of nvtx3/ in NVIDIA's packages, whose layout differs between versions."""
    nvidia = importlib.util.find_spec("nvidia")
    for package in (nvidia.submodule_search_locations or ()) if nvidia is not None else ():
        for header in Path(package).glob("*/include/nvtx3/nvToolsExt.h"):
            return header.parents[1]
    raise FileNotFoundError("nvtx3/nvToolsExt.h: pip install nvidia-nvtx brings it")


def recording(library: Path, log: Path) -> dict[str, str]:
    """Return this environment, with ``library`` writing to ``log``."""
    return {**os.environ, "NVTX_INJECTION64_PATH": str(library), "NVTX_RECORDER_LOG": str(log)}


def read_ranges(log: Path) -> list[Range]:
    """Return the ranges in ``log`` in the order they were opened.

    An injected library that cannot be loaded is passed over in silence, so an empty log is an
    AssertionError, as is a range that was never closed, or closed without having been opened.
    """
    lines = log.read_bytes().splitlines() if log.exists() else []
    assert lines, f"{log}: no NVTX event arrived"
    pushed: defaultdict[tuple[int, int, str], list[tuple[int, str]]] = defaultdict(list)
    started: dict[tuple[int, int], tuple[int, str, int]] = {}
    ranges = []
    for number, event in enumerate(map(orjson.loads, lines)):
        name, domain, pid, thread = (event[key] for key in ("name", "domain", "pid", "thread"))
        match event["kind"]:
            case "push":
                pushed[pid, thread, domain].append((number, name))
            case "pop":
                assert pushed[pid, thread, domain], f"line {number}: nothing to pop"
                opened, name = pushed[pid, thread, domain].pop()
                ranges.append(Range(name, domain, pid, thread, opened, number, thread, True))
            case "start":
                started[pid, event["range"]] = number, name, thread
            case "end":
                opened, name, opener = started.pop((pid, event["range"]))
                ranges.append(Range(name, domain, pid, opener, opened, number, thread, False))
    still_open = [*started.values(), *(entry for stack in pushed.values() for entry in stack)]
    assert not still_open, f"{log}: never closed: {still_open}"
    return sorted(ranges, key=lambda found: found.opened)
