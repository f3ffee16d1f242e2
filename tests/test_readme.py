"""The README's own model and own loop, as somebody types them into an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from trainings import rank_here

from perfkit import profile
from perfkit.core.record import read_record

README = Path(__file__).parents[1] / "README.md"

STAGES = """

class Cut(Mine):
    def model(self):
        return Wrapped(super().model())

    def stages(self, model):
        return list(model.inner)


class Wrapped(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)
"""

LOOP = """
import torch

loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.rand(160, 4), torch.randint(2, (160,))), batch_size=4
)
model = torch.nn.Linear(4, 2)
criterion = torch.nn.CrossEntropyLoss()
"""


def block(start: str) -> str:
    """Return the README's Python block that begins with ``start``."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(start)]
    return str(found)


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder but for the README's model."""
    folder = tmp_path_factory.mktemp("empty")
    model = block("import math, torch")
    (folder / "mine.py").write_text(model + STAGES, encoding="utf-8")
    return folder


def test_the_own_model_has_less_than_25_lines() -> None:
    assert len(block("import math, torch").splitlines()) < 25


PROFILE = (
    *("--image-size", "16", "--steps", "10", "--rounds", "2", "--warmup", "3"),
    *("--baseline", "none", "--trace-steps", "0"),
)


@pytest.mark.parametrize("name", ["Mine", "Cut"])
def test_an_own_model_runs_model_parallel_with_and_without_stages(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    flags = ("--workload", f"mine:{name}", "--strategy", "model_parallel", "--gpus", "2")
    assert rank_here(profile, *flags, *PROFILE, "--name", name) == 0
    cell = read_record(folder / "runs" / name).cells[0]
    assert cell.placement == [0, 1]
    assert cell.crossings == 1


def test_an_own_model_that_cannot_be_cut_still_trains_data_parallel(folder: Path) -> None:
    (folder / "uncut.py").write_text(
        "from mine import Mine, Wrapped\n\n\nclass Uncut(Mine):\n"
        "    def model(self):\n        return Wrapped(super().model())\n",
        encoding="utf-8",
    )
    flags = ("--workload", "uncut:Uncut", "--strategy", "ddp", "--gpus", "2", "--image-size", "16")
    printed = run("-m", "perfkit.train", *flags, "--epochs", "2", "--name", "uncut", cwd=folder)
    assert "truly 1" in printed  # two classes: it has a confusion matrix
    training = read_record(folder / "runs" / "uncut").training
    assert training is not None
    assert training.test is not None
    assert training.test.samples == 64


def test_an_own_loop_leaves_a_record_and_a_trace(folder: Path) -> None:
    loop = block("import perfkit").replace("...", "loss.backward()")
    (folder / "loop.py").write_text(LOOP + loop, encoding="utf-8")
    assert "own loop" in run("loop.py", cwd=folder)
    record = read_record(folder / "runs" / "first-try")
    assert record.kind == "own loop"
    assert record.traces is not None
    assert (folder / "runs" / "first-try" / "traces" / "merged.json.gz").exists()
