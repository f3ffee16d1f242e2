"""A baseline in a process of its own, beside the ranks it is compared with.

It is a fresh process, so that its memory and its first step are its own, and a child of rank 0,
which tells it when its turn is: ``python -m perfkit.engine.baseline FD CONFIG`` answers calls of
RankCell's methods over a pipe until the pipe is closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Block, Memory
from perfkit.engine.cell import RankCell, RankFacts
from perfkit.launch.child import die_with_parent
from perfkit.strategies.base import Device, Mesh

LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "MPI_", "SLURM_", "TORCHELASTIC_", "PERFKIT_")
LAUNCHER_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"}
LEAVE_S = 10.0


class BaselineProcess:
    """RankCell's methods, run in the child process; ``config`` is resolved, its strategy serial."""

    def __init__(self, config: RunConfig, device: Device) -> None:
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                __name__,
                str(theirs.fileno()),
                str(device.torch_device),
                config.model_dump_json(),
            ],
            env=_own_environment(config.threads or 1),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.facts: RankFacts = self._call("first_step")

    def warm_up(self) -> tuple[list[float], bool]:
        """See RankCell."""
        times, stable = self._call("warm_up")
        return times, stable

    def block(self, round_index: int, steps: int) -> Block:
        """See RankCell."""
        block: Block = self._call("block", round_index, steps)
        return block

    def memory(self) -> Memory:
        """See RankCell."""
        memory: Memory = self._call("memory")
        return memory

    def close(self) -> None:
        """Let the process leave, and end it if it does not."""
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
            raise RuntimeError(f"the baseline process died with exit code {code}") from None
        if succeeded:
            return answer
        if isinstance(answer, PerfkitError):
            raise answer
        raise RuntimeError(f"the baseline process failed:\n{answer}")


def serve(connection: Connection, config: RunConfig, device: Device) -> None:
    """Answer calls until the other end closes the pipe."""
    cell: RankCell | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            cell = cell or RankCell(config, Mesh(rank=0, world_size=1, devices=(device,)))
            answer = (True, getattr(cell, method)(*arguments))
        except PerfkitError as error:
            answer = (False, error)
        except Exception:
            answer = (False, traceback.format_exc())
        connection.send(answer)


def _own_environment(threads: int) -> dict[str, str]:
    """Return the environment without what would make the child think that it is a rank."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
    return {**environment, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def main() -> None:
    """Serve one cell."""
    import torch

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is rank 0's to answer
    handle, device_name, config = sys.argv[1:]
    torch_device = torch.device(device_name)
    serve(
        Connection(int(handle)),
        RunConfig.model_validate_json(config),
        Device(torch_device, device_name),
    )


if __name__ == "__main__":
    main()
