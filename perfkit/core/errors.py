"""The one error that a user's mistake raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError


class PerfkitError(Exception):
    """A mistake in what the user asked for or handed in.

    The message is one line: what was wrong, where, and what to do. Commands print it and exit
    with code 2; every other exception is a bug in perfkit and keeps its traceback.
    """


class Problem(NamedTuple):
    """What pydantic refused: ``field`` (parts joined by dots, empty for the whole), its value, why.

    ``reason`` is one line and goes after a colon.
    """

    field: str
    value: Any
    reason: str


def first_problem(error: ValidationError) -> Problem:
    """Return the first of what may be many problems: one line tells one."""
    problem = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    reason = " ".join(problem["msg"].removeprefix("Value error, ").split())
    if field:
        reason = reason[0].lower() + reason[1:]
    return Problem(field, problem["input"], reason)
