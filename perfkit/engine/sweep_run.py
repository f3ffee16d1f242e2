"""Running a sweep: a trial of each cell, then rounds in which every cell has a fresh process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from perfkit.core import cli
from perfkit.core.config import ProfileConfig, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Record, read_record
from perfkit.core.sweep import Sweep, write_sweep
from perfkit.engine.sweep_folder import missing, record_folder, trial_folder
from perfkit.launch.child import PARENT_VARIABLE

TRIAL_STEPS = 2
LEAVE_WITHIN_S = 25.0  # a run that is interrupted saves what it has measured
LEAST_FREE_BYTES = 4 << 20


class Failure(NamedTuple):
    """How a process failed: its own words, and whether it refused what it was asked for."""

    words: str
    is_refusal: bool


class Listener(Protocol):
    """Told how far a sweep is. Never called while something is timed."""

    def plan(self, sweep: Sweep, left_s: float, processes: int) -> None:
        """Tell what is about to be run, before the first timed process."""

    def start(self, what: str, done_s: float, left_s: float) -> None:
        """Tell which process begins now, and the seconds that those before and after it take."""

    def say(self, notice: str) -> None:
        """Tell what the user must know at once."""


def run_sweep(
    sweep: Sweep, folder: Path, listener: Listener, more_s: Callable[[RunConfig, Record], float]
) -> Sweep:
    """Run what is still missing of a sweep; return it with what its trials found out.

    ``more_s`` tells from a cell's configuration and the Record of its trial how many seconds more
    than the trial one of its processes takes.

    Cells whose Record is complete are left as they are. A process that fails leaves its round
    without that cell, and the sweep goes on. Raises PerfkitError where no room is left on the disk;
    KeyboardInterrupt ends the process that is running first.
    """
    (folder / "logs").mkdir(exist_ok=True)
    for index in range(len(sweep.cells)):
        sweep = _tried(sweep, index, folder, listener, more_s)
    left = missing(sweep, folder)
    seconds = [sweep.cells[index].planned_s or 0.0 for _, index in left]
    listener.plan(sweep, sum(seconds), len(left))
    for done, (round_index, index) in enumerate(left):
        cell = sweep.cells[index]
        what = f"round {round_index + 1} of {sweep.rounds}: {cell.label}"
        listener.start(what, sum(seconds[:done]), sum(seconds[done:]))
        problem = _run(sweep, sweep.config(index), record_folder(folder, round_index, index))
        if problem is not None:
            listener.say(f"{what} failed: {problem.words}")
            if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
                raise PerfkitError(
                    f"{folder}: no room is left on its disk; {len(left) - done} of {len(left)} "
                    f"processes are missing; make room, then: perfkit sweep --resume {folder}"
                )
    return sweep


def _tried(
    sweep: Sweep,
    index: int,
    folder: Path,
    listener: Listener,
    more_s: Callable[[RunConfig, Record], float],
) -> Sweep:
    """Return the sweep with a cell's trial behind it: how long it takes, or why it cannot run.

    A trial is a profile of two steps. It also makes what the processes after it find made, such as
    a stored data set or a warm disk cache.
    """
    cell = sweep.cells[index]
    if cell.skipped is not None or cell.planned_s is not None:
        return sweep
    listener.start(f"trial {index + 1} of {len(sweep.cells)}: {cell.label}", 0.0, 0.0)
    config = sweep.config(index)
    shared = config.model_dump(include=set(RunConfig.model_fields) & config.model_fields_set)
    trial = ProfileConfig(**shared, steps=TRIAL_STEPS, rounds=2, trace_steps=0, baseline=("none",))
    run = trial_folder(folder, index)
    started = time.monotonic()
    problem = _run(sweep.model_copy(update={"command": "profile"}), trial, run)
    took_s = time.monotonic() - started
    if problem is not None and not problem.is_refusal:
        # Not the cell's fault, perhaps: its rounds are tried all the same, and so is a trial again.
        listener.say(f"trial of {cell.label} failed: {problem.words}")
        return sweep
    if problem is not None:
        known = cell.model_copy(update={"skipped": problem.words})
        listener.say(f"{cell.label} is skipped: {problem.words}")
    else:
        seconds = took_s + more_s(config, read_record(run))
        known = cell.model_copy(update={"planned_s": seconds})
    cells = [known if i == index else other for i, other in enumerate(sweep.cells)]
    sweep = sweep.model_copy(update={"cells": cells})
    write_sweep(sweep, folder)
    return sweep


def _run(sweep: Sweep, config: RunConfig, run: Path) -> Failure | None:
    """Run one process to its end; return how where it fails.

    What an earlier try left is taken away first.
    """
    shutil.rmtree(run, ignore_errors=True)
    options = config.model_dump(include=config.model_fields_set) | {"runs": run.parent}
    command = [
        *(sys.executable, "-m", f"perfkit.{sweep.command}"),
        *cli.as_flags({**options, "name": run.name}),
    ]
    log = run.parent.parent / "logs" / f"{run.name}.txt"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches it once, from here
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
            code = _wait(process)
    except OSError as error:
        return Failure(f"{log}: {error.strerror}", is_refusal=False)
    if code == 0:
        return None
    words = _last_words(log) or f"exit code {code}"
    return Failure(words, is_refusal=code == cli.EXIT_USER_ERROR)


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_WITHIN_S)
        process.kill()
        process.wait()
        raise


def _last_words(log: Path) -> str:
    """Return the line in which a process says why it failed: its error, or that of its rank."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("perfkit: error: ")]
    if told and told[-1].endswith(":"):  # a traceback follows
        told = [line for line in lines if not line.startswith("perfkit: ")]
    return (told or lines or [""])[-1].removeprefix("perfkit: error: ").strip()
