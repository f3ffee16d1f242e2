from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from perfkit.core.errors import PerfkitError
from perfkit.launch.child import report_errors
from perfkit.launch.spawn import RankError, run_ranks

# A rank that should have been ended long before.
FOREVER = 60

RANK = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from pathlib import Path
from perfkit.core.errors import PerfkitError
from perfkit.launch.child import die_with_parent, report_errors

FOREVER = {forever}
rank = int(os.environ["RANK"])
reports = Path(os.environ["PERFKIT_ERROR_FILE"]).parent

def note(name, text=""):
    path = Path({folder!r}) / name
    path.with_suffix(".tmp").write_text(str(text))
    path.with_suffix(".tmp").replace(path)

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

def noted(name):
    return Path({folder!r}) / name

def loader_worker(name):
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(name, os.getpid())
    time.sleep(FOREVER)

def start_loader_workers(*methods):
    for method in methods:
        context = multiprocessing.get_context(method)
        context.Process(target=loader_worker, args=(f"{{method}}{{rank}}.pid",)).start()
    for method in methods:
        wait_for(noted(f"{{method}}{{rank}}.pid"))
    import psutil
    for process in psutil.Process().children(recursive=True):
        note(f"helper{{process.pid}}.pid", process.pid)

def main():
{body}

if __name__ == "__main__":
    die_with_parent()
    note(f"rank{{rank}}.pid", os.getpid())
    main()
"""

Write = Callable[[str], list[str]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that makes the command of a rank from the body of its main()."""

    def write(body: str) -> list[str]:
        script = tmp_path / "rank.py"
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        script.write_text(RANK.format(folder=str(tmp_path), forever=FOREVER, body=indented))
        return [sys.executable, str(script)]

    return write


def pids(folder: Path) -> set[int]:
    return {int(path.read_text()) for path in folder.glob("*.pid")}


def alive(folder: Path) -> set[int]:
    found = set()
    for pid in pids(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_rank_learns_its_place_and_its_threads(write: Write, tmp_path: Path) -> None:
    command = write(
        """
        from perfkit.launch.detect import detect
        threads = os.environ["OMP_NUM_THREADS"] + os.environ["MKL_NUM_THREADS"]
        place = detect(os.environ)
        note(f"{rank}.place", f"{place.launcher} {place.rank}/{place.world_size} "
             f"{place.local_rank}/{place.local_world_size} {place.master_addr} {threads}")
        note(f"{rank}.port", place.master_port)
        """
    )
    assert run_ranks(command, ranks=3, threads=5) == 0
    for rank in range(3):
        place = (tmp_path / f"{rank}.place").read_text()
        assert place == f"perfkit {rank}/3 {rank}/3 127.0.0.1 55"
    assert len({(tmp_path / f"{rank}.port").read_text() for rank in range(3)}) == 1


def test_ranks_inherit_the_environment_that_is_given(write: Write, tmp_path: Path) -> None:
    command = write('note("given", os.environ.get("GIVEN")); note("home", os.environ.get("HOME"))')
    run_ranks(command, ranks=1, threads=1, environ={"GIVEN": "yes"})
    assert (tmp_path / "given").read_text() == "yes"
    assert (tmp_path / "home").read_text() == "None"


def test_a_mistake_of_the_user_is_one_line_however_many_ranks_find_it(
    write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    command = write(
        """
        with report_errors():
            raise PerfkitError("--data: no such folder: cats; name one that exists")
        """
    )
    with pytest.raises(PerfkitError) as caught:
        run_ranks(command, ranks=3, threads=1)
    assert str(caught.value) == "--data: no such folder: cats; name one that exists"
    assert capfd.readouterr() == ("", "")


def test_the_rank_that_failed_first_is_blamed_and_not_the_peers_that_miss_it(
    write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    command = write(
        """
        try:
            with report_errors():
                if rank == 2:
                    raise RuntimeError("the disk is full")
                wait_for(reports / "rank2.json")
                raise RuntimeError("Connection closed by peer")
        finally:
            # The cause leaves last, as when it still has loader workers to stop.
            if rank == 2:
                wait_for(reports / "rank0.json")
                time.sleep(0.2)
        """
    )
    with pytest.raises(RankError) as caught:
        run_ranks(command, ranks=3, threads=1)
    assert caught.value.rank == 2
    assert caught.value.message.startswith("rank 2 failed:\nTraceback")
    assert "the disk is full" in caught.value.message
    assert "Connection closed" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_exits_without_a_report_is_blamed_with_its_code(write: Write) -> None:
    command = write(
        """
        if rank == 1:
            os._exit(3)
        with report_errors():
            raise RuntimeError("Connection closed by peer")
        """
    )
    with pytest.raises(RankError, match=r"^rank 1 exited with code 3 without a message$") as caught:
        run_ranks(command, ranks=2, threads=1)
    assert caught.value.rank == 1


def test_a_rank_that_reports_and_then_hangs_ends_the_run(write: Write, tmp_path: Path) -> None:
    command = write(
        """
        if rank == 0:
            time.sleep(FOREVER)
        threading.Thread(target=time.sleep, args=(FOREVER,)).start()
        with report_errors():
            raise RuntimeError("stuck on the way out")
        """
    )
    with pytest.raises(RankError, match="stuck on the way out"):
        run_ranks(command, ranks=2, threads=1)
    assert alive(tmp_path) == set()


def test_a_killed_rank_ends_the_run_and_every_process_of_it(write: Write, tmp_path: Path) -> None:
    command = write(
        """
        with report_errors():
            start_loader_workers("fork", "forkserver")
            note(f"ready{rank}")
            wait_for(noted("ready0"))
            wait_for(noted("ready1"))
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(FOREVER)
        """
    )
    with pytest.raises(RankError, match=r"^rank 1 was killed by signal 9 \(SIGKILL\)$") as caught:
        run_ranks(command, ranks=2, threads=1)
    assert caught.value.rank == 1
    # Two ranks, each with two workers, the fork server and the tracker of its semaphores.
    assert len(pids(tmp_path)) >= 10
    assert alive(tmp_path) == set()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_killed_rank_is_blamed_before_the_peers_that_report_its_loss(
    write: Write, name: str
) -> None:
    command = write(
        f"""
        if rank == 1:
            wait_for(noted("rank0.pid"))
            os.kill(os.getpid(), signal.{name})
        with report_errors():
            peer = noted("rank1.pid")
            wait_for(peer)
            while Path(f"/proc/{{peer.read_text()}}/exe").exists():
                time.sleep(0.001)
            raise RuntimeError("Connection closed by peer")
        """
    )
    with pytest.raises(RankError, match=rf"^rank 1 was killed by signal \d+ \({name}\)$"):
        run_ranks(command, ranks=2, threads=1)


def test_an_abort_after_a_report_is_a_consequence(write: Write) -> None:
    command = write(
        """
        try:
            with report_errors():
                if rank == 1:
                    raise RuntimeError("the disk is full")
        finally:
            wait_for(reports / "rank1.json")
            time.sleep(0.3)
            os.abort()
        """
    )
    with pytest.raises(RankError, match=r"^rank 1 failed:\n(.*\n)+.*the disk is full$"):
        run_ranks(command, ranks=2, threads=1)


def test_helpers_that_outlive_a_successful_rank_are_ended(write: Write, tmp_path: Path) -> None:
    command = write(
        """
        start_loader_workers("fork")
        os._exit(0)
        """
    )
    # Without die_with_parent, only the end of its process group ends this one.
    script = Path(command[1])
    script.write_text(script.read_text().replace("    die_with_parent()\n", "", 1))
    assert run_ranks(command, ranks=2, threads=1) == 0
    assert len(pids(tmp_path)) == 4
    assert alive(tmp_path) == set()


def test_a_command_that_does_not_exist_leaves_nothing_behind(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(FileNotFoundError):
        run_ranks([str(tmp_path / "nothing")], ranks=2, threads=1)
    assert signal.getsignal(signal.SIGTERM) is handler


def start_parent(command: list[str], tmp_path: Path, settings: str = "") -> subprocess.Popen[str]:
    """Start run_ranks(command) in a process of its own, and wait until both ranks are up."""
    # Under nohup the tests ignore SIGHUP, and so would whatever they start.
    code = f"""
import signal, sys
from perfkit.launch import spawn
signal.signal(signal.SIGHUP, signal.SIG_DFL)
{settings}
try:
    spawn.run_ranks({command!r}, ranks=2, threads=1)
except KeyboardInterrupt:
    sys.exit("interrupted")
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        # A parent that is killed cannot remove its temporary folder.
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    return parent


def test_ctrl_c_lets_the_ranks_save_what_they_measured(write: Write, tmp_path: Path) -> None:
    command = write(
        """
        try:
            note(f"ready{rank}")
            time.sleep(FOREVER)
        except KeyboardInterrupt:
            time.sleep(0.5)
            note(f"saved{rank}")
        """
    )
    with start_parent(command, tmp_path) as parent:
        parent.send_signal(signal.SIGINT)
        assert parent.communicate(timeout=30) == (None, "interrupted\n")
    assert all((tmp_path / f"saved{rank}").exists() for rank in range(2))
    assert alive(tmp_path) == set()


@pytest.mark.parametrize(("settings", "times"), [("", 2), ("spawn.SAVE_WITHIN_S = 0.2", 1)])
def test_ranks_that_ignore_ctrl_c_are_ended_by_a_second_one_or_in_time(
    write: Write, tmp_path: Path, settings: str, times: int
) -> None:
    command = write(
        """
        def ignore(*_):
            note(f"ignored{rank}")
        signal.signal(signal.SIGINT, ignore)
        note(f"ready{rank}")
        while True:
            time.sleep(1)
        """
    )
    settings = settings or f"spawn.SAVE_WITHIN_S = {FOREVER}"
    with start_parent(command, tmp_path, settings) as parent:
        for _ in range(times):
            parent.send_signal(signal.SIGINT)
            wait_until((tmp_path / "ignored1").exists)
        assert parent.communicate(timeout=30) == (None, "interrupted\n")
    assert alive(tmp_path) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_ranks_and_their_workers_do_not_outlive_the_parent(
    write: Write, tmp_path: Path, number: signal.Signals
) -> None:
    command = write(
        """
        start_loader_workers("fork", "forkserver")
        note(f"ready{rank}")
        time.sleep(FOREVER)
        """
    )
    with start_parent(command, tmp_path) as parent:
        parent.send_signal(number)
        wait_until(lambda: alive(tmp_path) == set())
        parent.communicate(timeout=30)
    assert parent.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert len(pids(tmp_path)) >= 10


def test_a_rank_whose_parent_died_before_it_looked_ends_itself() -> None:
    orphan = subprocess.run(
        [sys.executable, "-c", "from perfkit.launch.child import *; die_with_parent()"],
        env={**os.environ, "PERFKIT_PARENT_PID": "1"},
        check=False,
    )
    assert orphan.returncode == -signal.SIGKILL


def test_under_another_launcher_an_error_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERFKIT_ERROR_FILE", raising=False)
    with pytest.raises(ZeroDivisionError), report_errors():
        raise ZeroDivisionError


def test_a_dead_rank_is_blamed_and_not_gloo(write: Write) -> None:
    command = write(
        """
        import torch
        import torch.distributed as dist
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        with report_errors():
            for step in range(1000000):
                if rank == 1 and step == 3:
                    raise RuntimeError("bad photograph")
                dist.all_reduce(torch.ones(4))
        """
    )
    with pytest.raises(RankError, match="bad photograph") as caught:
        run_ranks(command, ranks=2, threads=1)
    assert caught.value.rank == 1
