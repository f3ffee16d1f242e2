"""A machine is described as it is, whatever it lacks, and no program can hold the command up."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import psutil
import pytest
import torch
from machines import H200, T4, machine, nvidia_smi

from perfkit.measure import machine as machine_module
from perfkit.measure.machine import (
    Output,
    cpu_quota,
    first_line,
    look_at_torch,
    memory_limit_mib,
    nvidia_driver,
    output_of,
    read_text,
    this_machine,
)
from perfkit.measure.memory import MIB

OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"
CLOSED_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 2023"


def test_this_machine_is_described_as_torch_and_the_host_describe_it() -> None:
    here = this_machine()
    assert here.environ is os.environ
    assert here.host().host_cores == os.cpu_count()
    assert here.host().memory_mib == psutil.virtual_memory().total / MIB
    assert here.torch().version == torch.__version__
    assert len(here.torch().gpus) == torch.cuda.device_count()
    assert here.torch().threads == torch.get_num_threads()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_without_a_gpu_torch_s_reason_is_kept_and_is_one_line() -> None:
    problem = look_at_torch().cuda_problem
    assert problem
    assert "\n" not in problem


def test_a_gpu_that_fails_leaves_those_before_it_and_what_torch_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Properties:
        name, total_memory, major, minor = "A GPU", 2**30, 9, 0

    def properties(index: int) -> type[Properties]:
        if index == 1:
            raise RuntimeError("CUDA error: uncorrectable ECC error\nlook at the log")
        return Properties

    def init() -> None:
        warnings.warn("the driver is old", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    facts = look_at_torch()
    assert facts.gpus == (("A GPU", 1024.0, (9, 0)),)
    assert facts.cuda_problem == "the driver is old; CUDA error: uncorrectable ECC error"


def test_the_driver_and_its_gpus_are_those_nvidia_smi_names() -> None:
    driver = nvidia_driver(machine(programs={"nvidia-smi": nvidia_smi(H200, T4)}))
    assert driver == ("580.65.06", ("NVIDIA H200", "Tesla T4"), "")


@pytest.mark.parametrize(
    ("module", "version"), [(OPEN_MODULE, "580.65.06"), (CLOSED_MODULE, "535.129.03")]
)
def test_without_nvidia_smi_the_driver_is_the_one_the_kernel_has_loaded(
    module: str, version: str
) -> None:
    driver = nvidia_driver(machine(files={"/proc/driver/nvidia/version": module}))
    assert driver == (version, (), "nvidia-smi is not on PATH")


@pytest.mark.parametrize(
    "output", [Output(False, "No devices were found\n"), Output(True, "No devices were found")]
)
def test_what_nvidia_smi_says_where_it_fails_is_kept(output: Output) -> None:
    driver = nvidia_driver(machine(programs={"nvidia-smi": output}))
    assert driver == (None, (), "nvidia-smi: No devices were found")


V2 = {"/proc/self/cgroup": "0::/job/step"}
V1 = {"/proc/self/cgroup": "5:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n1:name=systemd:/"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/"}, None),
        ({**V2, "/sys/fs/cgroup/job/step/cpu.max": "max 100000"}, None),
        ({**V2, "/sys/fs/cgroup/job/step/cpu.max": "150000 100000"}, 1.5),
        (
            {
                **V2,
                "/sys/fs/cgroup/job/step/cpu.max": "400000 100000",
                "/sys/fs/cgroup/job/cpu.max": "200000 100000",
            },
            2.0,
        ),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            {
                **V1,
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            {
                **V1,
                "/sys/fs/cgroup/cpu/docker/1f/cpu.cfs_quota_us": "-1",
                "/sys/fs/cgroup/cpu/docker/1f/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_the_tightest_cpu_quota_of_either_cgroup_version_counts(
    files: dict[str, str], cores: float | None
) -> None:
    assert cpu_quota(files.get) == cores


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({}, None),
        ({**V2, "/sys/fs/cgroup/job/step/memory.max": "max"}, None),
        (
            {
                **V2,
                "/sys/fs/cgroup/job/step/memory.max": "max",
                "/sys/fs/cgroup/job/memory.max": str(8 * 2**30),
            },
            8192.0,
        ),
        ({**V1, "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**30)}, 1024.0),
    ],
)
def test_the_tightest_memory_limit_of_either_cgroup_version_counts(
    files: dict[str, str], mib: float | None
) -> None:
    assert memory_limit_mib(files.get) == mib


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b" text \xff\n")
    assert read_text(str(tmp_path / "file")) == "text \N{REPLACEMENT CHARACTER}"
    assert read_text(str(tmp_path)) is None
    assert read_text(str(tmp_path / "missing")) is None


def test_the_output_of_a_program_is_all_it_prints_and_how_it_ended() -> None:
    code = "import sys; print('to stdout', flush=True); sys.exit('to stderr')"
    assert output_of([sys.executable, "-c", code]) == (False, "to stdout\nto stderr")
    assert output_of([sys.executable, "-c", "print('well')"]) == (True, "well")
    assert output_of([sys.executable, "-c", "raise SystemExit(3)"]) == (False, "ended with code 3")


def test_a_program_that_cannot_start_or_does_not_answer_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert output_of([str(tmp_path / "missing")]) == (False, "No such file or directory")
    monkeypatch.setattr(machine_module, "PROGRAM_TIMEOUT_S", 0.1)
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert output_of(waiting) == (False, "did not answer within 0.1 s")


def test_a_program_that_asks_something_gets_no_answer() -> None:
    assert output_of([sys.executable, "-c", "print(repr(input()))"]).ok is False


def test_of_a_message_the_first_line_is_told() -> None:
    assert first_line("\n  what is wrong \nwhere\n") == "what is wrong"
    assert first_line("") == ""
