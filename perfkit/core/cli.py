"""What every command shares: parsing flags into a model, and turning errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import pydantic
import tyro

from perfkit.core.errors import PerfkitError

T = TypeVar("T")
Main = Callable[[Sequence[str] | None], int]

EXIT_USER_ERROR = 2


def parse(model: type[T], argv: Sequence[str] | None, *, prog: str, description: str) -> T:
    """Return ``argv`` as a ``model``; a value the model refuses is a one-line PerfkitError."""
    try:
        return tyro.cli(model, args=argv, prog=prog, description=description)
    except pydantic.ValidationError as error:
        raise PerfkitError(first_problem(error)) from None


def first_problem(error: pydantic.ValidationError) -> str:
    """Return the first problem of a validation as one line that names the option."""
    problem = error.errors(include_url=False, include_context=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    option = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
    return f"{option}: {message}, got {problem['input']!r}"


def run(main: Main, argv: Sequence[str] | None = None) -> int:
    """Call ``main``; print a PerfkitError or an interruption as one line and return exit code 2."""
    try:
        return main(argv)
    except PerfkitError as error:
        print(f"perfkit: error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("perfkit: interrupted", file=sys.stderr)
    return EXIT_USER_ERROR
