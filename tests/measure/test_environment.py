"""The environment names what a number depends on, and nothing that it does not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import perfkit
from perfkit.core.host import available_cores
from perfkit.measure.environment import cpu_model, describe_environment, git_state


def test_hardware_is_one_line_of_cpu_cores_and_gpus() -> None:
    environment = describe_environment("torchrun")
    assert environment.launcher == "torchrun"
    assert environment.cores == available_cores()
    assert environment.hardware.startswith(f"{cpu_model()}, {available_cores()} cores")
    assert environment.hardware.count(" + ") == len(environment.gpus) == torch.cuda.device_count()
    assert "\n" not in environment.hardware
    assert environment.memory_mib > 100


def test_versions_are_those_that_are_imported() -> None:
    versions = describe_environment("perfkit").versions
    assert versions["perfkit"] == perfkit.__version__
    assert torch.__version__.startswith(versions["torch"].partition("+")[0])
    assert {"python", "torchvision", "numpy", "pillow"} <= versions.keys()


def test_variables_that_change_speed_are_kept_and_others_stay_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0", "MALLOC_ARENA_MAX": "1"}
    for name, value in {**kept, "MY_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    variables = describe_environment("perfkit").variables
    assert kept.items() <= variables.items()
    assert "secret" not in variables.values()


@pytest.fixture
def precision() -> Iterator[None]:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, convolution.fp32_precision
    yield
    matmul.fp32_precision, convolution.fp32_precision = before


@pytest.mark.parametrize(("asked", "seen"), [("tf32", True), ("ieee", False)])
def test_tf32_is_seen_as_it_was_set_by_the_newer_switches(
    precision: None, asked: str, seen: bool
) -> None:
    torch.backends.cuda.matmul.fp32_precision = asked
    torch.backends.cudnn.conv.fp32_precision = asked
    environment = describe_environment("perfkit")
    assert (environment.tf32_matmul, environment.tf32_convolution) == (seen, seen)


def test_tf32_is_seen_as_it_was_set_by_the_older_switch(precision: None) -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    assert describe_environment("perfkit").tf32_matmul is True
    torch.backends.cuda.matmul.allow_tf32 = False
    assert describe_environment("perfkit").tf32_matmul is False


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_commit_and_whether_tracked_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) == (None, None)  # no commit yet
    (tmp_path / "tracked").write_text("one")
    git(tmp_path, "add", "tracked")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "tracked").write_text("two")
    assert git_state(tmp_path) == (commit, True)


def test_outside_a_repository_and_without_git_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == (None, None)
