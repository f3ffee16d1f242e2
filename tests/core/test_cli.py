"""Flags follow from a model, and what is refused is one line with exit code 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tyro.conf import Positional

from perfkit.core import cli
from perfkit.core.errors import PerfkitError


class Flags(BaseModel):
    """What a command might take."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    files: Positional[tuple[Path, ...]]
    """Files to work on."""
    kind: Literal["plain", "fancy"] = "plain"
    """What kind of work."""
    step_count: Annotated[int, Field(ge=1)] | None = None
    """How often. Default: as often as it takes."""
    out: Path = Path("out")
    """Where to."""
    title: str = "none"
    """What to call it."""
    dry: bool = False
    """Whether to do nothing."""

    @model_validator(mode="after")
    def _fancy_work_is_not_dry(self) -> Self:
        if self.kind == "fancy" and self.dry:
            raise ValueError("--kind fancy cannot be --dry; leave one out")
        return self


def parse(*argv: str, defaults: dict[str, Any] | None = None) -> Flags:
    return cli.parse(Flags, argv, prog="perfkit work", description="Work.", defaults=defaults)


def test_flags_become_values_of_the_types_of_the_model() -> None:
    flags = parse("a", "b", "--kind", "fancy", "--step-count", "3", "--out", "there")
    assert flags == Flags(
        files=(Path("a"), Path("b")), kind="fancy", step_count=3, out=Path("there")
    )
    assert parse("a", "--dry").dry is True


def test_without_flags_the_defaults_of_the_model_hold() -> None:
    assert parse("a") == Flags(files=(Path("a"),))


@pytest.mark.parametrize("word", ["none", "3", "plain"])
def test_text_that_looks_like_something_else_stays_text(word: str) -> None:
    assert parse("a", "--title", word).title == word


def test_given_defaults_win_over_the_models_and_flags_win_over_both() -> None:
    defaults = {"step_count": 4, "out": Path("elsewhere")}
    assert parse("a", defaults=defaults).step_count == 4
    assert parse("a", defaults=defaults).out == Path("elsewhere")
    assert parse("a", "--step-count", "5", defaults=defaults).step_count == 5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--step-count", "0"), "--step-count 0: input should be greater than or equal to 1"),
        (("--step-count", "few"), "--step-count few: input should be a valid integer"),
        (("--kind", "odd"), "--kind odd: input should be 'plain' or 'fancy'"),
        (("--kind", "fancy", "--dry"), "--kind fancy cannot be --dry; leave one out"),
    ],
)
def test_a_refused_value_is_one_line_with_the_option_the_value_and_what_is_allowed(
    argv: tuple[str, ...], said: str
) -> None:
    with pytest.raises(PerfkitError) as caught:
        parse("a", *argv)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_an_unknown_flag_ends_the_process_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("a", "--step-cuont", "3")
    assert caught.value.code == 2
    assert "--step-cuont" in capsys.readouterr().err


def test_help_tells_every_flag_with_its_docstring_its_values_and_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "PATH ... Files to work on. (required)" in told
    assert "--kind {plain,fancy} What kind of work. (default: plain)" in told
    assert "--step-count INT How often. Default: as often as it takes. --out" in told
    assert "--out PATH Where to. (default: out)" in told
    assert "--dry" in told


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--config", "a.toml", "--steps", "4"], "a.toml"),
        (["--steps", "4", "--config=a.toml"], "a.toml"),
        (["--config"], None),
        (["--configs", "a.toml"], None),
        ([], None),
    ],
)
def test_peek_finds_the_value_of_an_option_in_both_spellings(
    argv: list[str], value: str | None
) -> None:
    assert cli.peek("--config", argv) == value


def test_run_hands_the_arguments_on_and_returns_the_exit_code() -> None:
    seen: list[Sequence[str] | None] = []

    def main(argv: Sequence[str] | None) -> int:
        seen.append(argv)
        return 7

    assert cli.run(main, ["x"]) == 7
    assert seen == [["x"]]


def failing(error: BaseException) -> cli.Main:
    def main(argv: Sequence[str] | None) -> int:
        raise error

    return main


def test_run_prints_a_users_mistake_as_one_line_on_stderr_and_returns_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(failing(PerfkitError("x: is wrong; mend it"))) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "perfkit: error: x: is wrong; mend it\n")


def test_run_tells_of_an_interruption_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(failing(KeyboardInterrupt())) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("perfkit: interrupted")


@pytest.mark.parametrize("code", [0, 1, 2])
def test_run_returns_the_code_of_an_end_that_was_told_elsewhere(code: int) -> None:
    assert cli.run(failing(SystemExit(code))) == code


def test_run_lets_a_bug_keep_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(failing(ZeroDivisionError()))
