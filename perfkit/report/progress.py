"""How far a run is, drawn only when told so: a display with a thread of its own would be timed."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressDisplay:
    """A bar on a terminal, a line for each part of the run elsewhere; on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("setting up", total=None)
        self._started = 0

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

    def start(self, what: str) -> None:
        """Show what begins now."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=what, completed=self._started)
            self._bar.refresh()
        else:
            self._console.print(f"perfkit: {what}", soft_wrap=True)
        self._started += 1

    def say(self, notice: str) -> None:
        """Print a line that stays."""
        self._console.print(f"perfkit: notice: {notice}", style="yellow", soft_wrap=True)


class Silence:
    """What the ranks other than 0 display."""

    def expect(self, parts: int) -> None:
        """Say nothing."""

    def start(self, what: str) -> None:
        """Say nothing."""

    def say(self, notice: str) -> None:
        """Say nothing."""
