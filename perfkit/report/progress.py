"""How far a run is, drawn only when told so: a display with a thread of its own would be timed."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from perfkit.core.sweep import Sweep
from perfkit.core.training_result import Epoch
from perfkit.report.training import epoch_words
from perfkit.report.words import count_of, duration

A_DAY_S = 86400.0  # of a sweep that takes longer the hour at which it ends says nothing


class _Display:
    """A bar on a terminal, a line for each part of the run elsewhere; on stderr."""

    columns: tuple[ProgressColumn, ...] = ()

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            *self.columns,
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("setting up", total=None)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def expect(self, parts: int) -> None:
        """Learn how many parts the run has in all."""
        self._bar.update(self._task, total=parts)

    def say(self, notice: str) -> None:
        """Print a line that stays."""
        self._console.print(f"perfkit: notice: {notice}", style="yellow", soft_wrap=True)

    def _show(self, what: str, completed: int) -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, description=what, completed=completed)
            self._bar.refresh()
        else:
            self._console.print(f"perfkit: {what}", soft_wrap=True)


class ProgressDisplay(_Display):
    """Of a profiled run: its parts are the turns of its cells."""

    columns = (TimeElapsedColumn(),)

    def __init__(self) -> None:
        super().__init__()
        self._started = 0

    def start(self, what: str) -> None:
        """Show what begins now."""
        self._show(what, self._started)
        self._started += 1


class TrainingDisplay(_Display):
    """Of a training: its parts are steps, and every epoch leaves a line."""

    columns = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())

    def __init__(self) -> None:
        super().__init__()
        self._done = 0

    def start(self, what: str) -> None:
        """Show what begins now."""
        if self._console.is_terminal or not what.startswith("epoch"):
            self._show(what, self._done)

    def advance(self, parts: int) -> None:
        """Show that so many steps were just done."""
        self._done += parts
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._done)
            self._bar.refresh()

    def epoch(self, epoch: Epoch, *, is_best: bool, left_s: float) -> None:
        """Print what an epoch came to."""
        line = epoch_words(epoch) + (", the best so far" if is_best else "")
        if left_s > 0:
            line += f"; about {duration(left_s)} left"
        self._console.print(f"perfkit: {line}", soft_wrap=True)


class SweepDisplay(_Display):
    """Of a sweep: its parts are the seconds that its processes are expected to take."""

    columns = (TimeElapsedColumn(),)

    def plan(self, sweep: Sweep, left_s: float, processes: int) -> None:
        """Tell what is about to be run."""
        if processes == 0:
            return
        able = sum(cell.skipped is None for cell in sweep.cells)
        ends = ""
        if left_s < A_DAY_S:
            ends = f", until {datetime.now().astimezone() + timedelta(seconds=left_s):%H:%M}"
        self._console.print(
            f"perfkit: {count_of(processes, 'process')} to run ({count_of(able, 'cell')}, "
            f"{count_of(sweep.rounds, 'round')}): about {duration(left_s)}{ends}",
            soft_wrap=True,
        )
        self._bar.update(self._task, total=left_s)

    def start(self, what: str, done_s: float, left_s: float) -> None:
        """Show which process begins now."""
        left = f"; about {duration(left_s)} left" if left_s > 0 else ""
        self._show(what + left, round(done_s))


class Silence:
    """What the ranks other than 0 display."""

    def expect(self, parts: int) -> None:
        """Say nothing."""

    def start(self, what: str) -> None:
        """Say nothing."""

    def advance(self, parts: int) -> None:
        """Say nothing."""

    def epoch(self, epoch: Epoch, *, is_best: bool, left_s: float) -> None:
        """Say nothing."""

    def say(self, notice: str) -> None:
        """Say nothing."""
