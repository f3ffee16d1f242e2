"""A cell in a process of its own, told what to do by a rank of the run.

A baseline is a fresh process, so that its memory and its first step are its own. So is the
correctness gate: run in the process that was timed afterwards, it made that process's steps faster
than those of a serial baseline without a gate, by more than the intervals allow. The allocator's
thresholds, which grow with the largest block freed, are the likely cause.

``python -m perfkit.engine.cell_process FD SPEC`` answers calls of RankCell's methods over a pipe
until the pipe is closed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Block, Gate, Memory
from perfkit.engine.cell import RankCell, RankFacts
from perfkit.engine.group import joined
from perfkit.launch.child import die_with_parent, leave
from perfkit.launch.detect import Place
from perfkit.strategies.base import Device, Mesh
from perfkit.strategies.placement import Placement

LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "MPI_", "SLURM_", "TORCHELASTIC_", "PERFKIT_")
LEAVE_S = 10.0

ALONE = Place("perfkit", 0, 1, 0, 1, "127.0.0.1", 0)


class CellProcess:
    """RankCell's methods, run in a child process; ``config`` is resolved.

    The child is alone, or rank ``place.rank`` of the cell's ranks, which then all have to make
    theirs. Every method raises what it raised in the child if that was a PerfkitError, and
    RuntimeError with the child's traceback otherwise.
    """

    def __init__(
        self,
        config: RunConfig,
        devices: Sequence[Device],
        *,
        place: Place = ALONE,
        backend: str = "gloo",
    ) -> None:
        self._connection, theirs = Pipe()
        spec = {
            "config": config.model_dump(mode="json", include=set(RunConfig.model_fields)),
            "devices": [(str(device.torch_device), device.name) for device in devices],
            "place": dataclasses.asdict(place),
            "backend": backend,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), json.dumps(spec)],
            env=_own_environment(config.threads or 1),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def gate(self, placement: Placement | None) -> Gate:
        """See RankCell."""
        gate: Gate = self._call("gate", placement)
        return gate

    def first_step(self) -> RankFacts:
        """See RankCell."""
        facts: RankFacts = self._call("first_step")
        return facts

    def warm_up(self, most: int) -> tuple[list[float], bool]:
        """See RankCell."""
        times, stable = self._call("warm_up", most)
        return times, stable

    def block(self, round_index: int, steps: int) -> Block:
        """See RankCell."""
        block: Block = self._call("block", round_index, steps)
        return block

    def memory(self) -> Memory:
        """See RankCell."""
        memory: Memory = self._call("memory")
        return memory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the process leave; end it if it does not, or at once where something went wrong."""
        if kind is not None:
            self._process.kill()
        self._connection.close()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
            succeeded, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self._process.wait(LEAVE_S)
            raise RuntimeError(f"the process of {method!r} died with exit code {code}") from None
        if succeeded:
            return answer
        if isinstance(answer, PerfkitError):
            raise answer
        raise RuntimeError(f"{method!r} failed in its process:\n{answer}")


def serve(connection: Connection, config: RunConfig, mesh: Mesh) -> None:
    """Answer calls until the other end closes the pipe."""
    cell: RankCell | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            if cell is not None:
                cell.close()
            return
        try:
            cell = cell or RankCell(config, mesh)
            answer = (True, getattr(cell, method)(*arguments))
        except PerfkitError as error:
            answer = (False, error)
        except Exception:
            answer = (False, traceback.format_exc())
        try:
            connection.send(answer)
        except BrokenPipeError:  # the rank has gone; so may this process
            return


def _own_environment(threads: int) -> dict[str, str]:
    """Return the environment without what tells a process which rank it is."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)
    }
    return {**environment, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def main() -> None:
    """Serve one cell."""
    import torch

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the rank's to answer
    spec = json.loads(sys.argv[2])
    devices = tuple(Device(torch.device(device), name) for device, name in spec["devices"])
    with joined(Place(**spec["place"]), devices, spec["backend"]) as mesh:
        serve(Connection(int(sys.argv[1])), RunConfig.model_validate(spec["config"]), mesh)
    leave(0)


if __name__ == "__main__":
    main()
