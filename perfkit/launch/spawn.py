"""Starting the ranks of a run on this machine, and seeing all of them to their end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from perfkit.core.errors import PerfkitError
from perfkit.launch.child import ERROR_FILE_VARIABLE, PARENT_VARIABLE
from perfkit.launch.detect import LAUNCHER_VARIABLE

POLL_S = 0.02
REPORTS_WITHIN_S = 0.5
SEEN_WITHIN_S = 0.1
TERMINATE_WITHIN_S = 2.0
KILL_WITHIN_S = 2.0
SAVE_WITHIN_S = 15.0


class RankError(Exception):
    """A rank ended by a bug or by a signal; ``message`` is that rank's own account of it."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank
        self.message = message


def run_ranks(
    command: Sequence[str], *, ranks: int, threads: int, environ: Mapping[str, str] | None = None
) -> int:
    """Run ``command`` as ``ranks`` processes on this machine; return 0 when all have succeeded.

    Every rank gets torchrun's variables, PERFKIT_LAUNCHER=perfkit and ``threads`` OpenMP and MKL
    threads on top of ``environ`` (default: this process's), the output streams of this process
    and a session of its own. When this returns or raises, no process of those sessions is left.

    The first rank to fail ends the run: PerfkitError with its line where the user made a mistake,
    RankError with its message otherwise. A rank that a signal kills or that exits without a report
    (see `perfkit.launch.child.report_errors`) counts as first, since its peers' reports only tell
    of the loss; then the earliest report.

    Ctrl-C is passed on to the ranks, which have 15 s to save what they measured, before
    KeyboardInterrupt goes on; a second one ends them at once. SIGTERM and SIGHUP end the ranks,
    then this process with SystemExit(128 + number). Call this from the main thread.
    """
    inherited = os.environ if environ is None else environ
    port = free_port()
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="perfkit-ranks-") as folder, _signals() as received:
        reports = [Path(folder) / f"rank{rank}.json" for rank in range(ranks)]
        try:
            for rank in range(ranks):
                if received:
                    break
                variables = {
                    "RANK": rank,
                    "WORLD_SIZE": ranks,
                    "LOCAL_RANK": rank,
                    "LOCAL_WORLD_SIZE": ranks,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                    LAUNCHER_VARIABLE: "perfkit",
                    ERROR_FILE_VARIABLE: reports[rank],
                    PARENT_VARIABLE: os.getpid(),
                    "OMP_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                }
                process = subprocess.Popen(
                    command,
                    env={**inherited, **{name: str(value) for name, value in variables.items()}},
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
                processes.append(process)
            _watch(processes, reports, received)
        finally:
            _end(processes)
        if received:
            raise _interruption(received)
    return 0


def _watch(
    processes: Sequence[subprocess.Popen[bytes]], reports: Sequence[Path], received: Sequence[int]
) -> None:
    """Return once all ranks have succeeded; raise for the rank that failed or for a signal."""
    failed_at: dict[int, float] = {}
    deadline: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        if received:
            if received[0] == signal.SIGINT:
                _let_save(processes, received)
            raise _interruption(received)
        for rank, code in enumerate(codes):
            # A rank may also report and then hang on its way out, in a thread of a library say.
            if code or reports[rank].exists():
                failed_at.setdefault(rank, time.time())
        if failed_at and deadline is None:
            deadline = time.monotonic() + REPORTS_WITHIN_S
        if None not in codes or (deadline is not None and time.monotonic() > deadline):
            break
        time.sleep(POLL_S)
    if failed_at:
        accounts = [
            _account(rank, codes[rank], seen_at, reports[rank])
            for rank, seen_at in failed_at.items()
        ]
        _, error = min(accounts, key=lambda account: account[0])
        raise error


def _account(
    rank: int, code: int | None, seen_at: float, report: Path
) -> tuple[tuple[float, int], Exception]:
    """Return when a rank failed (Unix time, s; its number settles a tie), and the error."""
    # The report before the code: a rank that has reported may still be aborted on its way out, by
    # the threads of a process group that was never closed.
    if report.exists():
        told = json.loads(report.read_text(encoding="utf-8"))
        if told["user_error"]:
            return (told["time"], rank), PerfkitError(told["message"])
        return (told["time"], rank), RankError(rank, f"rank {rank} failed:\n{told['message']}")
    assert code is not None
    if code > 0:
        return (0.0, rank), RankError(
            rank, f"rank {rank} exited with code {code} without a message"
        )
    message = f"rank {rank} was killed by signal {-code} ({signal.Signals(-code).name})"
    # An abort may be a consequence too: NCCL's watchdog ends a process whose peer has gone.
    failed_at = seen_at - SEEN_WITHIN_S if code == -signal.SIGABRT else 0.0
    return (failed_at, rank), RankError(rank, message)


def _let_save(processes: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> None:
    """Pass Ctrl-C on; return when the ranks have left, at a second signal, or when time is up."""
    # To the ranks alone: they stop their own loader workers.
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + SAVE_WITHIN_S
    while len(received) == 1 and time.monotonic() < deadline:
        if all(process.poll() is not None for process in processes):
            return
        time.sleep(POLL_S)


def _interruption(received: Sequence[int]) -> BaseException:
    if received[0] == signal.SIGINT:
        return KeyboardInterrupt()
    return SystemExit(128 + received[0])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End every process group, helpers of ranks that have left included, and reap the ranks."""
    groups = {process.pid for process in processes}
    for number, within_s in (
        (signal.SIGTERM, TERMINATE_WITHIN_S),
        (signal.SIGKILL, KILL_WITHIN_S),
    ):
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
        deadline = time.monotonic() + within_s
        while _any_alive(processes, groups):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        else:
            return


def _any_alive(processes: Iterable[subprocess.Popen[bytes]], groups: set[int]) -> bool:
    if any(process.poll() is None for process in processes):
        return True
    # Not by killpg(group, 0): orphans stay zombies for ever in a container whose first process
    # reaps nothing, and would count.
    for found in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(found.pid) in groups and found.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals to this process instead of ending it half-way through starting a rank."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    # An ignored signal (nohup) and a handler of the caller's own stay.
    replaceable = (signal.SIG_DFL, signal.default_int_handler)
    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) in replaceable
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
