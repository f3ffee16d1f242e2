"""Two real gloo ranks for tests that cannot do without."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perfkit.engine.group import joined
from perfkit.launch.detect import Place
from perfkit.launch.spawn import free_port
from perfkit.strategies.base import Device, Mesh

RANKS = 2
JOIN_S = 180.0
# Imported once by the server that all ranks are forked off, and not for seconds by each of them.
SHARED = ["perfkit.engine.cell"]


def on_two_ranks(function: Callable[[Mesh], Any], folder: Path) -> list[Any]:
    """Return what ``function``, of the top of a module, returns on each of two CPU ranks.

    The ranks have neither the environment variables nor the stderr of the test that asks.
    """
    multiprocessing.set_forkserver_preload(SHARED)
    context = multiprocessing.get_context("forkserver")
    port = free_port()
    processes = [
        context.Process(target=_run, args=(function, rank, port, folder), daemon=True)
        for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(JOIN_S)
    codes = [process.exitcode for process in processes]
    assert codes == [0] * RANKS, f"exit codes {codes}"
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


def _run(function: Callable[[Mesh], Any], rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    place = Place("perfkit", rank, RANKS, rank, RANKS, "127.0.0.1", port)
    with joined(place, (Device(torch.device("cpu"), "cpu"),), "gloo") as mesh:
        torch.save(function(mesh), folder / f"rank{rank}.pt")
    sys.exit(0)
