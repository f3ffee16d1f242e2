"""Finding a workload by its name, and saying what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.workloads.base import clip_norm_of, load_workload, schedule_of, stages_of
from perfkit.workloads.forensics import Forensics
from perfkit.workloads.glaucoma import Glaucoma


def test_a_built_in_name_and_its_module_name_the_same_class() -> None:
    assert load_workload("forensics") is Forensics
    assert load_workload("glaucoma") is Glaucoma
    assert load_workload("perfkit.workloads.glaucoma:Glaucoma") is Glaucoma


def test_a_users_own_class_is_as_good_as_a_built_in_one() -> None:
    assert load_workload("tiny:Tiny") is tiny.Tiny


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


MEMBERS = ("model", "dataset", "collate", "loss", "optimizer")


@pytest.mark.parametrize("absent", MEMBERS)
def test_a_missing_member_is_named(absent: str, modules: Path) -> None:
    kept = "\n".join(f"    {member} = None" for member in MEMBERS if member != absent)
    (modules / f"lacks_{absent}.py").write_text(f"class Mine:\n{kept}\n")
    with pytest.raises(PerfkitError) as error:
        load_workload(f"lacks_{absent}:Mine")
    assert f"Mine lacks {absent};" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar", "--workload cifar: no such workload; known are forensics, glaucoma"),
        ("", "no such workload"),
        (":Mine", "no such workload"),
        ("tiny:", "no such workload"),
        (".tiny:Tiny", "no such workload"),
        ("tiny:Tiny:Tiny", "no such workload"),
        ("tiny:Gone", "tiny has no class Gone"),
        ("tiny:FEATURES", "tiny has no class FEATURES"),
        ("no_such_module:Mine", "imported (No module named 'no_such_module'; run where it"),
        ("tiny.deeper:Mine", "cannot be imported"),
        ("tiny:Lacking", "Lacking lacks model, dataset, collate, loss, optimizer;"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(name: str, words: str) -> None:
    with pytest.raises(PerfkitError) as error:
        load_workload(name)
    assert words in str(error.value)
    assert str(error.value).startswith(f"--workload {name}: ")
    assert "\n" not in str(error.value)


def test_a_module_that_lacks_a_package_says_which(modules: Path) -> None:
    (modules / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(PerfkitError, match=r"needs_more cannot be imported .*'a_package_that_is"):
        load_workload("needs_more:Mine")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:\n", "(invalid syntax (broken_0.py, line 1))"),
        ("x = 1\ny = x.nothing\n", "(AttributeError: 'int' object has no attribute 'nothing', at "),
        ("raise RuntimeError('no\\nway')\n", "(RuntimeError: no, at "),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_told_in_one_line_with_its_place(
    source: str, words: str, modules: Path
) -> None:
    name = f"broken_{len(list(modules.iterdir()))}"
    (modules / f"{name}.py").write_text(source)
    sys.modules.pop(name, None)
    with pytest.raises(PerfkitError) as error:
        load_workload(f"{name}:Mine")
    assert f"{name} cannot be imported {words}" in str(error.value)
    assert "\n" not in str(error.value)


def test_schedule_and_clipping_may_be_left_out() -> None:
    class Plain:
        pass

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = schedule_of(Plain(), optimizer)  # type: ignore[arg-type]
    for _ in range(7):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == 0.5
    assert clip_norm_of(Plain()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, ReduceLROnPlateau])
def test_a_schedule_that_cannot_be_stepped_by_itself_is_refused(given: object) -> None:
    class Mine:
        def schedule(self, optimizer: torch.optim.Optimizer) -> object:
            return given and ReduceLROnPlateau(optimizer)

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(PerfkitError, match="stepped without a metric, got"):
        schedule_of(Mine(), optimizer)  # type: ignore[arg-type]


def test_an_import_error_of_several_lines_is_told_in_one(modules: Path) -> None:
    (modules / "talks.py").write_text("raise ImportError('no driver\\nand a page of advice')\n")
    with pytest.raises(PerfkitError) as error:
        load_workload("talks:Mine")
    assert str(error.value) == "--workload talks:Mine: talks cannot be imported (no driver)"


class Halves(tiny.Tiny):
    def stages(self, model: nn.Sequential) -> list[nn.Module]:
        return [model[:2], model[2:]]


def test_stages_are_those_that_the_workload_says() -> None:
    workload = Halves(RunConfig())
    stages = stages_of(workload, workload.model())
    assert stages is not None
    assert [len(stage) for stage in stages] == [2, 2]  # type: ignore[arg-type]


def test_without_stages_a_sequential_is_cut_into_its_children_and_another_model_not_at_all() -> (
    None
):
    workload = tiny.Tiny(RunConfig())
    model = workload.model()
    assert stages_of(workload, model) == list(model.children())
    uncut = tiny.Uncut(RunConfig())
    assert stages_of(uncut, uncut.model()) is None
