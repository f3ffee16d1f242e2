"""``perfkit X`` and ``python -m perfkit.X`` are the same command."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import perfkit
from perfkit import __main__ as front
from perfkit import synthesize


def test_every_command_is_a_module_with_a_main_and_listed_in_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert front.main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, what in front.COMMANDS.items():
        assert callable(importlib.import_module(f"perfkit.{name}").main)
        assert f"  {name:<12}{what}\n" in told


def test_every_module_that_runs_as_a_command_is_one() -> None:
    folder = Path(perfkit.__file__).parent
    runnable = {
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and "__main__" in path.read_text(encoding="utf-8")
    }
    assert runnable == set(front.COMMANDS)


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_without_a_command_it_tells_those_there_are(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert front.main(argv) == 0
    assert capsys.readouterr().out.startswith("usage: perfkit COMMAND")


def test_an_unknown_command_is_one_line_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert front.main(["profil", "--gpus", "2"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "perfkit: error: no command 'profil'; known are " + ", ".join(front.COMMANDS) + "\n"
    )


def test_the_rest_of_the_line_goes_to_the_command_and_its_exit_code_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Sequence[str] | None] = []

    def main(argv: Sequence[str] | None = None) -> int:
        seen.append(argv)
        return 5

    monkeypatch.setattr(synthesize, "main", main)
    assert front.main(["synthesize", "there", "--seed", "1"]) == 5
    assert seen == [["there", "--seed", "1"]]


def test_a_mistake_in_a_command_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["compare", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("perfkit: error: nowhere: cannot be read")
    assert told.count("\n") == 1


def test_the_installed_script_is_this_main() -> None:
    (script,) = [s for s in entry_points(group="console_scripts") if s.name == "perfkit"]
    assert script.value == "perfkit.__main__:main"


def test_both_spellings_say_the_same_and_end_with_the_same_code() -> None:
    done = [
        subprocess.run(
            [sys.executable, "-m", *command, "nowhere"],
            capture_output=True,
            text=True,
            check=False,
        )
        for command in (("perfkit", "compare"), ("perfkit.compare",))
    ]
    assert [each.returncode for each in done] == [2, 2]
    assert done[0].stderr == done[1].stderr
    assert done[0].stderr.startswith("perfkit: error: nowhere: cannot be read")
