"""The command writes a data set, says what to type next, and refuses in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perfkit import synthesize
from perfkit.core import cli

FEW = ["--train", "5", "--val", "4", "--test", "3", "--size", "16"]


def test_it_writes_the_layout_and_says_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fundus photos"
    assert cli.run(synthesize.main, [str(folder), *FEW]) == 0
    written = [len(list((folder / split).glob("*/*.png"))) for split in ("train", "val", "test")]
    assert written == [5, 4, 3]
    told = capsys.readouterr().out
    assert "5 train, 4 val, 3 test" in told
    assert f"python -m perfkit.profile --data '{folder}'" in told


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert cli.run(synthesize.main, [str(tmp_path / name), *FEW, "--seed", seed]) == 0
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "train").glob("*/*.png")}
        for name in "abc"
    )
    assert a == b
    assert not set(a.values()) & set(c.values())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "15"], "--size 15"),
        (["--train", "-1"], "--train -1"),
        (["--seed", "-1"], "--seed -1"),
        (["--train", "0", "--val", "0", "--test", "0"], "nothing to write"),
    ],
)
def test_a_bad_value_is_one_line_and_code_2_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert cli.run(synthesize.main, [str(tmp_path / "new"), *flags]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert cli.run(synthesize.main, [str(tmp_path), *FEW]) == 2
    told = capsys.readouterr().err
    assert "is not empty" in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_help_answers_without_loading_torch_or_numpy() -> None:
    code = (
        "import sys\n"
        "from perfkit import synthesize\n"
        "try:\n"
        "    synthesize.main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "sys.exit(' '.join({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--train" in done.stdout


def test_it_runs_as_a_module_and_exits_with_its_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perfkit.synthesize", str(tmp_path), "--size", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("perfkit: error: --size 1")
