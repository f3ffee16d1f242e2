"""The command: a table and a figure, or one line on stderr and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from asv_results import kept
from records import a_baseline, a_cell, a_record, an_environment
from sweep_records import a_sweep, written

from perfkit import compare
from perfkit.core import cli
from perfkit.core.record import RECORD_NAME, Record, write_record

SERIAL = a_record(a_cell([[0.2], [0.2]]), name="serial")
DDP = a_record(a_cell([[0.25, 0.25], [0.25, 0.25]]), a_baseline([0.2, 0.2]), name="ddp")
STRONG = a_record(SERIAL.cells[0], config={"local_batch": None, "global_batch": 4})


def run_folder(folder: Path, record: Record) -> str:
    folder.mkdir()
    write_record(record, folder)
    return str(folder)


@pytest.fixture
def good(tmp_path: Path) -> str:
    return run_folder(tmp_path / "good", SERIAL)


def test_it_prints_the_table_and_writes_the_figure(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run_folder(tmp_path / "other", DDP)
    figure = tmp_path / "figure.png"
    assert cli.run(compare.main, [good, other, "--figure", str(figure)]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "1.60x" in told.out
    assert told.out.endswith(f"figure  {figure}\n")
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 10_000


def test_all_of_a_folder_may_be_named_though_stored_sets_lie_among_the_runs(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "preprocessed"
    stored.mkdir()
    figure = str(tmp_path / "figure.png")
    assert cli.run(compare.main, [good, str(stored), "--figure", figure]) == 0
    assert cli.run(compare.main, [str(stored), "--figure", figure]) == 2
    assert "name at least one run folder" in capsys.readouterr().err


def test_one_run_may_be_looked_at_alone_and_named_by_its_file(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "figure.png"
    path = str(Path(good) / RECORD_NAME)
    assert cli.run(compare.main, [path, "--figure", str(figure)]) == 0
    assert "serial: tiny:Tiny under serial" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (a_record(SERIAL.cells[0], environment=an_environment(hardware="B")), "other hardware"),
        (a_record(SERIAL.cells[0], config={"workload": "glaucoma"}), "other workload"),
        (STRONG, "other scaling mode"),
    ],
)
def test_a_ratio_that_would_mean_nothing_is_refused_with_the_reason(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: Record, reason: str
) -> None:
    other = run_folder(tmp_path / "other", record)
    assert cli.run(compare.main, [good, other, "--figure", str(tmp_path / "f.png")]) == 0
    told = capsys.readouterr().out
    assert f"B  has no ratio to A: {reason}\n" in told
    assert told.count("1.00x") == 1  # that of A to itself


def test_an_interrupted_run_is_compared_by_what_it_measured(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = a_record(a_cell([[0.1]]), status="incomplete", name="cut")
    other = run_folder(tmp_path / "other", record)
    assert cli.run(compare.main, [good, other, "--figure", str(tmp_path / "f.png")]) == 0
    told = capsys.readouterr().out
    assert "cut: tiny:Tiny under serial on 1 CPU rank (quick look, INCOMPLETE)" in told
    assert "2.00x" in told


def with_a_part_missing(folder: Path) -> None:
    path = write_record(SERIAL, folder)
    content = orjson.loads(path.read_bytes())
    del content["cells"][0]["ceiling"]
    path.write_bytes(orjson.dumps(content))


def truncated(folder: Path) -> None:
    path = write_record(SERIAL, folder)
    path.write_bytes(path.read_bytes()[:-200])


def of_a_newer_version(folder: Path) -> None:
    path = write_record(SERIAL, folder)
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"schema_version": "2.0"}))


def without_blocks(folder: Path) -> None:
    write_record(a_record(a_cell([]), status="incomplete"), folder)


def without_record(folder: Path) -> None:
    pass


def missing(folder: Path) -> None:
    folder.rmdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (with_a_part_missing, "is not a valid Record (cells.0.ceiling: field required)"),
        (truncated, "is not a whole JSON file"),
        (of_a_newer_version, "has schema version 2.0, this perfkit reads 1.x; update perfkit"),
        (without_blocks, "the run stopped before its first timed block; run it again"),
        (without_record, "holds no record.json; it is no run folder"),
        (missing, "cannot be read (No such file or directory); name a run folder"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line_naming_it_and_nothing_is_written(
    good: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    damage(bad)
    figure = tmp_path / "figure.png"
    assert cli.run(compare.main, [good, str(bad), "--figure", str(figure)]) == 2
    check_one_line(capsys, str(bad), said)
    assert not figure.exists()


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("figure.gif", "has to end in one of .png, .svg, .pdf"),
        ("figure", "has to end in one of .png, .svg, .pdf"),
        ("a-file/figure.png", "cannot be written"),
        ("a-folder.png", "cannot be written"),
    ],
)
def test_a_figure_that_cannot_be_written_is_one_line_before_anything_is_printed(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: str, said: str
) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "a-folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    assert cli.run(compare.main, [good, "--figure", str(tmp_path / figure)]) == 2
    check_one_line(capsys, f"--figure {tmp_path / figure}", said)
    assert sorted(tmp_path.iterdir()) == before


def check_one_line(capsys: pytest.CaptureFixture[str], *said: str) -> None:
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("perfkit: error: ")
    assert told.err.count("\n") == 1
    for words in said:
        assert words in told.err


def test_no_run_and_too_many_are_refused(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(compare.main, []) == 2
    check_one_line(capsys, "name at least one run folder")
    assert cli.run(compare.main, [good] * 27) == 2
    check_one_line(capsys, "27 runs are too many")


def test_it_draws_and_prints_without_importing_torch(good: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from perfkit import compare\n"
        "assert compare.main(sys.argv[1:]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, good, "--figure", str(tmp_path / "figure.svg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "200 ms" in done.stdout
    assert done.stderr == ""


def test_two_sweeps_are_compared_cell_by_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = [[0.2, 0.202, 0.199], [0.1, 0.101, 0.1]]
    sweep = a_sweep({"workers": 2}, rounds=3)
    before = written(sweep, tmp_path / "before", costs)
    after = written(sweep, tmp_path / "after", [costs[0], [3 * step_s for step_s in costs[1]]])
    assert cli.run(compare.main, [str(before), str(after)]) == 0
    told = capsys.readouterr().out
    (slower,) = [line for line in told.splitlines() if "slower" in line]
    assert "workers=2" in slower
    assert "3.000x" in slower
    assert "unpaired" in told


def test_sweeps_without_a_cell_in_common_and_three_of_them_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(written(a_sweep({"workers": 2}, rounds=2), tmp_path / "one", [[], [0.1, 0.1]]))
    two = str(written(a_sweep({"workers": 1}, rounds=2), tmp_path / "two", [[], [0.1, 0.1]]))
    assert cli.run(compare.main, [one, two]) == 2
    assert "have no measured cell in common" in capsys.readouterr().err
    assert cli.run(compare.main, [one, two, one]) == 2
    assert "two sweep folders can be compared, not 3" in capsys.readouterr().err


def test_two_commits_are_compared_by_what_asv_kept_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commits = []
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", f"{tmp_path}"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    results = tmp_path / ".asv" / "results"
    results.mkdir(parents=True)
    for factor in (1.0, 2.0):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True)
        commits.append(head.stdout.decode().strip())
        kept(results, {"costs.track_a": [[factor, 1.01 * factor, factor]]}, commit=commits[-1])
    assert cli.run(compare.main, ["HEAD~1", "HEAD"]) == 0
    told = capsys.readouterr().out
    assert commits[0] in told
    (row,) = [line for line in told.splitlines() if line.startswith("costs.track_a")]
    assert "2.000x" in row
    assert row.strip().endswith("slower, one process each")
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "another"], check=True)
    assert cli.run(compare.main, ["HEAD~1", "HEAD"]) == 2
    assert "has no results of commit" in capsys.readouterr().err


def test_a_run_a_sweep_and_a_commit_are_not_compared_with_each_other(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = str(written(a_sweep({"workers": 2}, rounds=2), tmp_path / "s", [[0.1, 0.1], []]))
    assert cli.run(compare.main, [good, sweep]) == 2
    assert f"{sweep} is a sweep and {good} is none" in capsys.readouterr().err
    monkeypatch.setattr(compare, "_commit", lambda name: "0" * 40 if name == "HEAD" else "")
    assert cli.run(compare.main, ["HEAD", "HAED"]) == 2
    assert "HEAD is a commit and HAED is none" in capsys.readouterr().err
    assert cli.run(compare.main, ["x" * 300]) == 2
    check_one_line(capsys, "x" * 300)


@pytest.mark.parametrize("option", ["--figure", "--results"])
def test_an_option_that_would_do_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    sweep = str(written(a_sweep({"workers": 2}, rounds=2), tmp_path / "s", [[0.1, 0.1], []]))
    assert cli.run(compare.main, [sweep, sweep, option, "a.png"]) == 2
    check_one_line(capsys, f"{option} a.png", "leave it out")
