"""A loop of one's own: what is watched, what is left alone, and what comes of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import on_two_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perfkit
from perfkit.core.errors import PerfkitError
from perfkit.core.record import read_record
from perfkit.engine.session import Report, Session, watch
from perfkit.strategies.base import Mesh
from perfkit.trace.read import read_trace

STEPS, BATCH = 64, 4


def loader(steps: int = STEPS) -> DataLoader[Any]:
    inputs = torch.randn(steps * BATCH, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=BATCH)


def train(session: Session, epochs: int = 1, steps: int = STEPS) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for inputs, labels in session.steps(loader(steps)):
            with session.phase("forward"):
                loss = F.cross_entropy(model(inputs), labels)
            with session.phase("my backward"):
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with session.phase("validation"):  # between epochs: no step
            model(torch.zeros(1, 8))
    return model


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., Any]:
    def made(name: str = "own", report: Report = lambda _: None, **options: Any) -> Any:
        settings = {"model": None, "warmup": 2, "steps": 12, "trace_steps": 2, **options}
        return watch(Session(name, runs=tmp_path / "runs", report=report, **settings))

    return made


def test_the_steps_after_warm_up_are_timed_in_four_blocks_and_the_next_ones_traced(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    reported: list[Path] = []
    with session(report=reported.append) as watched:
        train(watched)
    record = read_record(tmp_path / "runs" / "own")
    (cell,) = record.cells
    assert (record.kind, record.status, record.gate) == ("own loop", "complete", None)
    assert [len(block.steps) for block in cell.blocks] == [3, 3, 3, 3]
    assert len(cell.warmup_step_s) == 1  # the first step is told apart
    assert cell.time_to_first_step_s[0] > 0
    assert (cell.local_batch, cell.global_batch, cell.ranks) == (BATCH, BATCH, 1)
    assert (record.data.train_samples, record.data.samples_per_epoch) == (256, 256)
    assert record.traces is not None
    assert len(record.traces.step_s) == 2
    assert reported == [tmp_path / "runs" / "own"]  # once


def test_every_step_has_the_users_phases_and_the_wait_for_data_and_they_fit_into_it(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session() as watched:
        train(watched)
    for block in read_record(tmp_path / "runs" / "own").cells[0].blocks:
        assert sum(step.host_s for step in block.steps) <= block.wall_s
        for step in block.steps:
            assert list(step.phases_s) == ["data_wait", "forward", "my backward"]
            assert 0 < sum(step.phases_s.values()) <= step.host_s
            assert step.loss is None


def test_the_trace_holds_the_traced_steps_with_their_phases(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session() as watched:
        train(watched)
    trace = read_trace(tmp_path / "runs" / "own" / "traces" / "rank0.json.gz")
    names = [event.get("name") for event in trace.events if event.get("ph") == "X"]
    for name in ("perfkit.step", "perfkit.data_wait", "perfkit.forward", "perfkit.my backward"):
        assert names.count(name) == 2, name


def test_the_watched_loop_trains_to_the_same_bits_as_an_unwatched_one(
    session: Callable[..., Any],
) -> None:
    class Unwatched:
        def steps(self, batches: Any) -> Any:
            return batches

        def phase(self, _: str) -> Any:
            return contextlib.nullcontext()

    with session() as watched:
        seen = train(watched)
    alone = train(Unwatched())  # type: ignore[arg-type]
    assert torch.equal(seen.get_parameter("weight"), alone.get_parameter("weight"))


def test_what_comes_between_epochs_is_not_timed_and_a_block_ends_with_its_epoch(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session() as watched:
        train(watched, epochs=3, steps=7)  # the twelve timed steps are 2 to 13
    blocks = read_record(tmp_path / "runs" / "own").cells[0].blocks
    assert [len(block.steps) for block in blocks] == [3, 2, 3, 3, 1]
    assert all("validation" not in s.phases_s for block in blocks for s in block.steps)


def test_a_loop_that_is_left_early_keeps_its_whole_steps_and_says_that_they_are_few(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session() as watched:
        for index, _ in enumerate(watched.steps(loader())):
            if index == 6:
                break
    record = read_record(tmp_path / "runs" / "own")
    assert sum(len(block.steps) for block in record.cells[0].blocks) == 4
    assert record.traces is None
    assert any("4 timed steps are too few" in taint for taint in record.taints)
    assert any("ended before its traced steps" in taint for taint in record.taints)


def test_a_loop_that_ends_within_the_traced_steps_keeps_its_timed_ones(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session() as watched:
        train(watched, steps=15)  # the last one is the profiler's warm-up
    record = read_record(tmp_path / "runs" / "own")
    assert sum(len(block.steps) for block in record.cells[0].blocks) == 12
    assert record.traces is None
    with session("again") as watched:  # the profiler has been stopped
        train(watched)
    assert read_record(tmp_path / "runs" / "again").traces is not None


def test_a_loop_that_fails_keeps_what_was_timed_and_its_own_error(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    def fail() -> None:
        with session() as watched:
            for index, _ in enumerate(watched.steps(loader())):
                if index == 8:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    record = read_record(tmp_path / "runs" / "own")
    assert record.status == "incomplete"
    assert sum(len(block.steps) for block in record.cells[0].blocks) == 6


def test_a_loop_shorter_than_the_warm_up_leaves_no_folder_and_says_so(
    session: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with session() as watched:
        train(watched, steps=2)
    assert "nothing was timed: the loop took 2 steps" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_session_without_a_loop_leaves_nothing(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session():
        pass
    assert not (tmp_path / "runs").exists()


def test_a_name_that_is_taken_gets_a_number(session: Callable[..., Any], tmp_path: Path) -> None:
    for _ in range(2):
        with session(trace_steps=0) as watched:
            train(watched)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["own", "own-2"]
    assert read_record(tmp_path / "runs" / "own-2").name == "own-2"


def test_with_the_model_the_record_knows_its_size(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session(model=nn.Linear(3, 2)) as watched:
        train(watched)
    record = read_record(tmp_path / "runs" / "own")
    assert record.parameters == 8
    assert record.cells[0].devices == [["cpu"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a/b"}, "session 'a/b': a name has letters"),
        ({"name": ""}, "session '': a name has letters"),
        ({"warmup": 0}, "at least 1 step of warm-up"),
        ({"steps": 0}, "1 timed step"),
        ({"trace_steps": -1}, "trace_steps=-1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_in_one_line(
    session: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(PerfkitError, match=said.replace("(", r"\(")) as caught:
        session(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "batches",
    [
        [{"image": torch.zeros(5, 3), "label": torch.zeros(5)}] * 8,
        [("names", [torch.zeros(5, 3)])] * 8,
    ],
)
def test_the_batch_is_counted_whatever_it_is_nested_in(
    session: Callable[..., Any], tmp_path: Path, batches: list[Any]
) -> None:
    def stream() -> Iterator[Any]:
        yield from batches

    with session(trace_steps=0) as watched:
        assert sum(1 for _ in watched.steps(stream())) == 8
    record = read_record(tmp_path / "runs" / "own")
    assert record.cells[0].local_batch == 5
    assert record.data.samples_per_epoch is None  # a stream does not say


def test_batches_that_can_be_read_only_once_reach_the_loop_whole(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    with session(trace_steps=0) as watched:
        seen = [list(batch) for batch in watched.steps(iter(range(3)) for _ in range(20))]
    assert seen == [[0, 1, 2]] * 20
    record = read_record(tmp_path / "runs" / "own")
    assert any("samples of a timed step: unknown" in taint for taint in record.taints)


def test_batches_of_several_sizes_are_said(session: Callable[..., Any], tmp_path: Path) -> None:
    with session(trace_steps=0) as watched:
        # Two of warm-up, then three of 8 and nine of 4 are timed.
        for _ in watched.steps([torch.zeros(8)] * 5 + [torch.zeros(4)] * 9):
            pass
    record = read_record(tmp_path / "runs" / "own")
    assert record.cells[0].local_batch == 5
    assert any("samples of a timed step: 4, 8;" in taint for taint in record.taints)


def test_an_error_of_the_loader_is_the_one_that_is_seen(
    session: Callable[..., Any], tmp_path: Path
) -> None:
    def stream() -> Iterator[Any]:
        yield from [torch.zeros(4)] * 9
        raise ZeroDivisionError

    def loop() -> None:
        with session() as watched:
            for _ in watched.steps(stream()):
                pass

    with pytest.raises(ZeroDivisionError):
        loop()
    assert read_record(tmp_path / "runs" / "own").status == "incomplete"


def test_a_loop_within_a_step_is_refused(session: Callable[..., Any]) -> None:
    def nested() -> None:
        with session() as watched:
            for _ in watched.steps(loader()):
                next(iter(watched.steps(loader())))

    with pytest.raises(PerfkitError, match="within a step of another"):
        nested()


def test_a_folder_for_runs_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "gone"
    runs.symlink_to(tmp_path / "unmounted" / "scratch")
    settings: dict[str, Any] = {"model": None, "warmup": 1, "steps": 2, "trace_steps": 0}
    watched = Session("own", runs=runs, report=lambda _: None, **settings)
    with pytest.raises(PerfkitError, match="cannot be made"):
        next(watched.steps(loader()))


def uneven(mesh: Mesh, runs: Path) -> list[str]:
    watched = Session(
        "own", model=None, runs=runs, warmup=1, steps=8, trace_steps=2, report=lambda _: None
    )
    with watch(watched):
        train(watched, steps=20 - 10 * mesh.rank)  # rank 1 ends within its traced steps
    return [str(watched.folder)]


def test_ranks_that_end_at_different_steps_still_leave_one_record(
    tmp_path: Path,
) -> None:
    on_two_ranks(partial(uneven, runs=tmp_path / "runs"), tmp_path)
    record = read_record(tmp_path / "runs" / "own")
    assert {block.rank for block in record.cells[0].blocks} == {0, 1}
    assert record.traces is None
    assert any("ended before its traced steps" in taint for taint in record.taints)


def watched_on_a_rank(mesh: Mesh, runs: Path) -> list[str]:
    watched = Session(
        "own", model=None, runs=runs, warmup=1, steps=8, trace_steps=1, report=lambda _: None
    )
    with watch(watched):
        train(watched, steps=20)
    return [str(watched.folder)]


def test_under_two_ranks_one_record_holds_the_steps_of_both(
    tmp_path: Path,
) -> None:
    folders = on_two_ranks(partial(watched_on_a_rank, runs=tmp_path / "runs"), tmp_path)
    assert folders == [[str(tmp_path / "runs" / "own")]] * 2
    record = read_record(tmp_path / "runs" / "own")
    cell = record.cells[0]
    assert (cell.ranks, cell.global_batch, cell.backend) == (2, 2 * BATCH, "gloo")
    for rank in range(2):
        assert sum(len(b.steps) for b in cell.blocks if b.rank == rank) == 8
    assert record.traces is not None
    assert [file.rank for file in record.traces.files] == [0, 1, None]


SCRIPT = """
import torch, perfkit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(256, 8), torch.randint(2, (256,))), batch_size=4)
model = nn.Linear(8, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with perfkit.session("mine", model=model) as s:
    for inputs, labels in s.steps(loader):
        with s.phase("forward"):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
print("the script went on")
"""


def test_a_plain_script_prints_its_costs_and_can_be_compared(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "loop.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "loop on 1 CPU rank (own loop)" in done.stdout
    assert "20 timed steps in 4 rounds of a loop of your own" in done.stdout
    assert "the script went on" in done.stdout
    compared = subprocess.run(
        [sys.executable, "-m", "perfkit.compare", "runs/mine"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mine: loop on 1 CPU rank (own loop)" in compared.stdout


def test_asking_for_a_session_imports_torch_only_then() -> None:
    code = "import sys, perfkit; assert 'torch' not in sys.modules; perfkit.session('a')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert perfkit.__version__
