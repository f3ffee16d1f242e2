"""Progress goes to stderr: lines where it is no terminal, and nothing from the other ranks."""

from __future__ import annotations

import pytest

from perfkit.report.progress import ProgressDisplay, Silence


def test_off_a_terminal_every_part_and_every_notice_is_a_line_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay() as progress:
        progress.say("stand-in devices [no CUDA device]")
        progress.start("warm-up")
        progress.expect(2)
        progress.start("timed pass, " + "a long label " * 12 + "ends")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "perfkit: notice: stand-in devices [no CUDA device]",
        "perfkit: warm-up",
        "perfkit: timed pass, " + "a long label " * 12 + "ends",
    ]


def test_the_ranks_other_than_0_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silence = Silence()
    silence.expect(2)
    silence.start("warm-up")
    silence.say("something")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_the_display_starts_no_thread_that_would_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    before = threading.active_count()
    with ProgressDisplay() as progress:
        progress.expect(2)
        progress.start("warm-up")
        assert threading.active_count() == before
