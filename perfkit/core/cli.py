"""What every command shares: flags made from a model, and errors turned into exit codes."""

from __future__ import annotations

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import pydantic
import tyro
from pydantic.fields import FieldInfo

from perfkit.core.errors import PerfkitError, first_problem

Model = TypeVar("Model", bound=pydantic.BaseModel)
Main = Callable[[Sequence[str] | None], int]

EXIT_USER_ERROR = 2


def parse(
    model: type[Model],
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
) -> Model:
    """Return ``argv`` as a ``model``, whose field docstrings (pydantic: descriptions) are the help.

    ``defaults`` win over the model's own. A value that the model refuses is a one-line
    PerfkitError; a flag that does not exist ends the process with code 2 and the nearest names.
    """
    for argument in sys.argv[1:] if argv is None else argv:
        if not _is_utf8(argument):
            raise PerfkitError(f"{argument!a}: is not UTF-8, and no file of perfkit's can hold it")
    # Parsed into a plain dataclass first: pydantic's refusal of a value then reaches this
    # function instead of being printed, over ten lines, by the parser.
    flags = dataclasses.make_dataclass(
        model.__name__,
        [_flag(name, info, defaults or {}) for name, info in model.model_fields.items()],
        kw_only=True,
    )
    parsed: Any = tyro.cli(flags, args=argv, prog=prog, description=description)
    return validate(model, {f.name: getattr(parsed, f.name) for f in dataclasses.fields(flags)})


def validate(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Return ``values`` as a ``model``; a refused value is a PerfkitError naming the option."""
    try:
        return model(**values)
    except pydantic.ValidationError as error:
        field, value, reason = first_problem(error)
        option = f"--{field.replace('_', '-')} {value}: " if field else ""
        raise PerfkitError(option + reason) from None


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as the flags that `parse` makes them of; None is left out."""
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            flags += [f"--{flag}", *map(str, value)]
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags


def peek(option: str, argv: Sequence[str]) -> str | None:
    """Return the value of an option that must be known before the flags can be parsed."""
    for position, argument in enumerate(argv):
        if argument == option and position + 1 < len(argv):
            return argv[position + 1]
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def run(main: Main, argv: Sequence[str] | None = None) -> int:
    """Call ``main``; print a PerfkitError or an interruption as one line and return exit code 2."""
    try:
        return main(argv)
    except SystemExit as ending:
        # Raised where somebody else has been told what happened.
        return ending.code if isinstance(ending.code, int) else EXIT_USER_ERROR * bool(ending.code)
    except BrokenPipeError:
        # Whoever read the output had enough of it; the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PerfkitError as error:
        print(f"perfkit: error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("perfkit: interrupted", file=sys.stderr)
    return EXIT_USER_ERROR


def _flag(
    name: str, info: FieldInfo, defaults: Mapping[str, Any]
) -> tuple[str, Any, dataclasses.Field[Any]]:
    default = defaults.get(name, dataclasses.MISSING if info.is_required() else info.default)
    kind, many = _kind(info.annotation)
    annotation: Any = kind
    if kind is not bool:
        # As text: the model is the one to refuse a value, in one line.
        annotation = tuple[str, ...] if many else str
        if default is None:
            annotation = str | None
        elif default is not dataclasses.MISSING:
            default = tuple(map(str, default)) if many else str(default)
    hint = None  # the parser's own, which names the default
    if default is dataclasses.MISSING:
        hint = "(required)"
    elif default is None:
        hint = ""  # None means "follows from the rest", which the help says in words
    metavar = None if kind is bool else _metavar(kind) + " ..." * many
    argument = tyro.conf.arg(help=info.description, metavar=metavar, help_behavior_hint=hint)
    for extra in (argument, *info.metadata):
        annotation = Annotated[annotation, extra]
    return name, annotation, dataclasses.field(default=default)


def _is_utf8(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # bytes that were none arrive as lone surrogates
        return False
    return True


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the type of one value of a flag, and whether the flag takes many."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _kind(next(kind for kind in arguments if kind is not types.NoneType))
    if origin is tuple:
        return arguments[0], True
    return annotation, False


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(typing.get_args(kind)) + "}"
    return {int: "INT", str: "STR"}.get(kind, "PATH")
