"""Every group says what can be used here; what cannot, says why and what to do instead."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn, get_args

import pytest
from machines import (
    CPU_TORCH,
    CUDA_TORCH,
    H200,
    HOST,
    P100,
    T4,
    machine,
    nvidia_smi,
    torch_with,
)

import perfkit
from perfkit.core.config import Precision, StrategyName
from perfkit.core.errors import PerfkitError
from perfkit.measure.capabilities import PROBES, Capabilities, Capability, find_capabilities
from perfkit.measure.machine import GpuFacts, Machine, Output, TorchFacts, this_machine
from perfkit.ops.native import BuildInfo

SMI = {"nvidia-smi": nvidia_smi(H200, H200)}
BROKEN_SMI = {"nvidia-smi": Output(False, "Failed to initialize NVML: Unknown Error\nmore")}


def rows(group: str, asked: Machine) -> dict[str, Capability]:
    found = getattr(find_capabilities(asked), group)
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


def gpu_machine(*gpus: GpuFacts) -> Machine:
    return machine(torch=torch_with(*gpus), programs={"nvidia-smi": nvidia_smi(*gpus)})


def test_this_machine_answers_every_question() -> None:
    found = find_capabilities(this_machine())
    assert found.versions["perfkit"] == perfkit.__version__
    for group in PROBES:
        for row in getattr(found, group):
            assert "could not be found out" not in row.reason
            assert row.detail if row.available else row.reason, row
    assert Capabilities.model_validate_json(found.model_dump_json()) == found


def test_every_group_has_a_probe() -> None:
    assert set(PROBES) == set(Capabilities.model_fields) - {"hostname", "versions"}


def test_a_question_that_breaks_is_told_as_a_reason_and_the_others_are_answered() -> None:
    def broken() -> NoReturn:
        raise OSError("libcudart.so.13: not found\nand more")

    asked = replace(machine(), torch=broken)
    reason = "could not be found out (OSError: libcudart.so.13: not found)"
    assert rows("gpus", asked) == {"cuda": Capability(name="cuda", available=False, reason=reason)}
    assert rows("host", asked)["threads"].reason == reason
    assert rows("host", asked)["memory"].available
    assert rows("launchers", asked)["perfkit"].available


def test_cores_are_told_beside_those_of_the_host() -> None:
    assert rows("host", machine())["cores"].detail == "8, all of this host"
    few = machine(host=replace(HOST, cores=2))
    assert rows("host", few)["cores"].detail == "2 of the 8 of this host (affinity)"


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        ("250000", "keep ranks x --threads within 2, more would be throttled"),
        ("50000", "keep ranks x --threads within 1, more would be throttled"),
        ("800000", ""),
    ],
)
def test_a_cpu_quota_below_the_cores_says_how_many_threads_fit(quota: str, reason: str) -> None:
    files = {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": f"{quota} 100000"}
    row = rows("host", machine(files=files))["CPU quota"]
    assert row.detail == f"{int(quota) / 100000:g} cores"
    assert row.reason == reason


def test_without_a_quota_none_is_told() -> None:
    assert "CPU quota" not in rows("host", machine())


def test_memory_is_what_the_control_group_allows() -> None:
    assert rows("host", machine())["memory"].detail == "64.0 GiB"
    for limit_gib, told in ((8, "8.0 GiB by control group, of 64.0 GiB of this host"), (99, None)):
        files = {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/memory.max": str(limit_gib * 2**30)}
        assert rows("host", machine(files=files))["memory"].detail == (told or "64.0 GiB")


def test_threads_name_the_variable_that_torch_goes_by() -> None:
    assert "(OMP_NUM_THREADS is not set)" in rows("host", machine())["threads"].detail
    told = machine(environ={"OMP_NUM_THREADS": "3"})
    assert "(OMP_NUM_THREADS=3)" in rows("host", told)["threads"].detail


def test_gpus_are_told_with_memory_capability_and_driver() -> None:
    found = rows("gpus", gpu_machine(H200, T4))
    assert found["CUDA"].detail == "driver 580.65.06, torch built for CUDA 13.2"
    assert found["cuda:0"].detail == "NVIDIA H200, 140.4 GiB, compute capability 9.0"
    assert found["cuda:1"].detail == "Tesla T4, 15.0 GiB, compute capability 7.5"
    assert all(row.available and not row.reason for row in found.values())


def test_a_driver_that_nobody_names_and_torch_s_complaints_are_told_beside_the_gpus() -> None:
    asked = machine(torch=replace(torch_with(H200), cuda_problem="it is old"))
    row = rows("gpus", asked)["CUDA"]
    assert row.available
    assert row.detail.startswith("driver of unknown version (nvidia-smi is not on PATH)")
    assert row.reason == "it is old"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            machine(environ={"CUDA_VISIBLE_DEVICES": ""}),
            "no NVIDIA driver (nvidia-smi is not on PATH); if there is a GPU, install its driver",
        ),
        (
            machine(programs=BROKEN_SMI),
            "no NVIDIA driver (nvidia-smi: Failed to initialize NVML: Unknown Error); if there is "
            "a GPU, install its driver",
        ),
        (
            machine(torch=CPU_TORCH),
            "torch 2.15.0+cpu is built without CUDA, and there is no NVIDIA driver (nvidia-smi is "
            "not on PATH)",
        ),
        (
            machine(torch=CPU_TORCH, programs=SMI),
            "torch 2.15.0+cpu is built without CUDA; install a CUDA build to use 2 x NVIDIA H200, "
            "see https://pytorch.org",
        ),
        (
            machine(programs=SMI, environ={"CUDA_VISIBLE_DEVICES": ""}),
            "CUDA_VISIBLE_DEVICES='' hides 2 x NVIDIA H200; unset it, or set it to 0",
        ),
        (
            machine(programs=SMI, torch=replace(CUDA_TORCH, cuda_problem="The driver is too old")),
            "The driver is too old (driver 580.65.06, torch built for CUDA 13.2)",
        ),
        (
            machine(programs=SMI, torch=replace(CUDA_TORCH, cuda_problem="")),
            "torch sees no GPU (driver 580.65.06, torch built for CUDA 13.2)",
        ),
    ],
    ids=["no driver", "broken driver", "CPU torch", "CPU torch, GPUs", "hidden", "old", "unknown"],
)
def test_why_there_is_no_gpu_is_told_apart(asked: Machine, reason: str) -> None:
    assert rows("gpus", asked) == {"CUDA": Capability(name="CUDA", available=False, reason=reason)}


@pytest.mark.parametrize(
    ("torch", "available", "said"),
    [
        (torch_with(H200), True, "2.30.7"),
        (CUDA_TORCH, False, "needs GPUs"),
        (replace(torch_with(H200), nccl=None), False, "built without it"),
    ],
)
def test_nccl_needs_a_gpu_and_a_torch_that_has_it(
    torch: TorchFacts, available: bool, said: str
) -> None:
    row = rows("backends", machine(torch=torch))["nccl"]
    assert row.available is available
    assert said in row.detail + row.reason


def test_without_gloo_only_one_rank_is_possible() -> None:
    asked = machine(torch=replace(CUDA_TORCH, gloo=False))
    assert not rows("backends", asked)["gloo"].available
    usable = {name for name, row in rows("strategies", asked).items() if row.available}
    assert usable == {"serial", "model_parallel"}


@pytest.mark.parametrize(
    ("gpus", "usable"),
    [
        ((), {"fp32 (CPU)", "bf16 (CPU)"}),
        ((H200,), {f"{p} (GPU)" for p in get_args(Precision)} | {"fp32 (CPU)", "bf16 (CPU)"}),
        ((T4, T4), {"fp32 (GPU)", "fp16 (GPU)", "fp32 (CPU)", "bf16 (CPU)"}),
        (
            (H200, T4),
            {f"{p} (GPU 9.0)" for p in get_args(Precision)}
            | {"fp32 (GPU 7.5)", "fp16 (GPU 7.5)", "fp32 (CPU)", "bf16 (CPU)"},
        ),
    ],
)
def test_every_precision_is_told_for_every_kind_of_device(
    gpus: tuple[GpuFacts, ...], usable: set[str]
) -> None:
    found = rows("precisions", gpu_machine(*gpus))
    kinds = {gpu.compute_capability for gpu in gpus}
    assert len(found) == len(get_args(Precision)) * (len(kinds) + 1)
    assert {name for name, row in found.items() if row.available} == usable


def test_a_precision_that_only_costs_time_is_available_with_a_reservation() -> None:
    found = rows("precisions", gpu_machine(P100))
    assert "no faster than fp32" in found["fp16 (GPU)"].reason
    assert "slower than fp32" in found["bf16 (CPU)"].reason
    fast = machine(host=replace(HOST, cpu_flags=frozenset({"amx_bf16", "avx512_bf16", "avx2"})))
    row = rows("precisions", fast)["bf16 (CPU)"]
    assert (row.detail, row.reason) == ("amx_bf16, avx512_bf16", "")


def test_without_gpus_stand_ins_are_told_as_what_they_are() -> None:
    found = rows("strategies", machine())
    assert set(found) == set(get_args(StrategyName))
    assert found["serial"] == Capability(name="serial", available=True, detail="on the CPU")
    assert found["ddp"].detail == "--gpus 2: 2 gloo ranks on the CPU"
    assert found["model_parallel"].detail == "--gpus 2: 2 stand-in devices on the CPU"
    both = found["ddp_model_parallel"]
    assert both.detail == "--gpus 4: 2 gloo ranks of 2 stand-in devices on the CPU"
    assert both.reason == "real devices: 4 GPUs needed, none here"


@pytest.mark.parametrize(
    ("count", "on"),
    [
        (1, {"serial": 1}),
        (3, {"serial": 1, "ddp": 3, "model_parallel": 3}),
        (5, {"serial": 1, "ddp": 5, "model_parallel": 5, "ddp_model_parallel": 4}),
        (16, {"serial": 1, "ddp": 16, "model_parallel": 16, "ddp_model_parallel": 16}),
    ],
)
def test_with_gpus_each_strategy_names_the_most_it_can_use(count: int, on: dict[str, int]) -> None:
    found = rows("strategies", gpu_machine(*[H200] * count))
    for name, row in found.items():
        most = on.get(name)
        if most is None:
            assert row.reason.endswith(f"GPUs needed, {count} here")
        else:
            words = "on 1 GPU" if most == 1 else f"on up to {most} GPUs"
            assert row == Capability(name=name, available=True, detail=words)


def test_ranks_on_gpus_need_nccl() -> None:
    asked = machine(torch=replace(torch_with(H200, H200), nccl=None))
    found = rows("strategies", asked)
    assert found["ddp"].reason == "ranks need nccl, which this torch is built without"
    assert found["model_parallel"].detail == "on up to 2 GPUs"
    assert found["ddp_model_parallel"].detail.startswith(
        "--gpus 4: 2 gloo ranks"
    )  # too few GPUs for it


BUILD = BuildInfo(
    commit="0123456789abcdef0123456789abcdef01234567",
    torch="2.15.0+cu132",
    torch_abi="2.11",
    compiler="g++ 12.2.0",
    cuda_architectures=("sm_90", "compute_90"),
    cuda_toolkit="13.2",
    cuda_reason="nvcc 13.2 (nvcc on PATH), torch's own version",
    isa="avx2",
    isas=("scalar", "avx2"),
)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("perfkit.ops.native.build_info", lambda: BUILD)
    monkeypatch.setattr("perfkit.ops.native.load", lambda: "")
    return monkeypatch


@pytest.mark.usefixtures("built")
def test_native_operators_are_told_with_how_they_were_built() -> None:
    found = rows("operators", gpu_machine(H200))
    assert found["CPU operators"].detail == (
        "avx2 in use, of avx2, scalar (choose with PERFKIT_CPU_ISA); for torch 2.11 and newer, "
        "built with 2.15.0+cu132, g++ 12.2.0, commit 0123456789ab"
    )
    assert found["CUDA operators"] == Capability(
        name="CUDA operators",
        available=True,
        detail="sm_90, compute_90; nvcc 13.2 (nvcc on PATH), torch's own version",
    )
    assert rows("operators", machine())["CUDA operators"].reason == "there is no GPU here"


def test_why_there_are_no_cuda_operators_is_told(built: pytest.MonkeyPatch) -> None:
    built.setattr("perfkit.ops.native.load", lambda: "perfkit was built without them")
    row = rows("operators", gpu_machine(H200))["CUDA operators"]
    assert not row.available
    assert row.reason == "perfkit was built without them"


def test_operators_that_are_not_built_say_so(built: pytest.MonkeyPatch) -> None:
    def missing() -> NoReturn:
        raise PerfkitError("not built; build them with: make")

    built.setattr("perfkit.ops.native.build_info", missing)
    found = rows("operators", machine())
    assert not any(row.available for row in found.values())
    assert found["CPU operators"].reason == "not built; build them with: make"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to ...", "Open MPI 5.0.11, /bin/mpirun"),
        (
            "HYDRA build details:\n    Version:            5.0.2\n    Release Date: ...",
            "MPICH 5.0.2, /bin/mpirun",
        ),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.18.1 Build 20260626 (id: b44796a)",
            "Intel MPI 2021.18.1, /bin/mpirun",
        ),
    ],
)
def test_kinds_of_mpi_are_told_apart(text: str, detail: str) -> None:
    row = rows("launchers", machine(programs={"mpirun": Output(True, text)}))["mpirun"]
    assert row == Capability(name="mpirun", available=True, detail=detail)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (Output(True, "something 1.0"), "is not Open MPI, MPICH, Intel MPI; install"),
        (Output(False, "mpiexec.hydra: not found\n"), "does not work: mpiexec.hydra: not found"),
    ],
)
def test_an_mpirun_that_is_unknown_or_broken_is_not_available(output: Output, said: str) -> None:
    row = rows("launchers", machine(programs={"mpirun": output}))["mpirun"]
    assert not row.available
    assert said in row.reason


def test_launchers_that_are_missing_say_where_they_come_from() -> None:
    found = rows("launchers", machine())
    assert found["perfkit"].available
    assert found["torchrun"].available
    assert found["torchrun"].reason == ("not on PATH (python -m torch.distributed.run is the same)")
    for name in ("mpirun", "srun"):
        assert not found[name].available
        assert found[name].reason.startswith("not on PATH; ")


def test_launchers_that_are_there_are_told_with_version_and_path() -> None:
    programs = {"torchrun": Output(True, ""), "srun": Output(True, "slurm-wlm 22.05.8")}
    found = rows("launchers", machine(programs=programs))
    assert found["torchrun"].detail == "torch 2.15.0+cu132, /bin/torchrun"
    assert found["torchrun"].reason == ""
    assert found["srun"].detail == "22.05.8, /bin/srun"


def test_nsight_tools_are_told_with_their_version() -> None:
    nsys = "NVIDIA Nsight Systems version 2025.3.1.90-253135822126v0"
    ncu = (
        "NVIDIA (R) Nsight Compute Command Line Profiler\n"
        "Copyright (c) 2018-2025 NVIDIA Corporation\n"
        "Version 2025.2.0.0 (build 35613519) (public-release)"
    )
    programs = {"nsys": Output(True, nsys), "ncu": Output(True, ncu)}
    found = rows("tracing", machine(programs=programs))
    assert found["nsys"].detail == "2025.3.1.90, /bin/nsys"
    assert found["ncu"].detail == "2025.2.0.0, /bin/ncu"


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        (CUDA_TORCH, "there is no GPU"),
        (replace(torch_with(H200), cupti=False), "built without it"),
    ],
)
def test_why_no_gpu_kernels_are_traced_is_told_apart(torch: TorchFacts, said: str) -> None:
    row = rows("tracing", machine(torch=torch))["CUPTI"]
    assert not row.available
    assert said in row.reason
    assert rows("tracing", machine(torch=torch_with(H200)))["CUPTI"].available


def test_a_torch_without_its_profiler_is_told_with_the_way_round() -> None:
    row = rows("tracing", machine(torch=replace(CUDA_TORCH, profiler=False)))["profiler"]
    assert not row.available
    assert "--trace-steps 0" in row.reason


def test_nvtx_that_is_switched_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows("tracing", machine())["NVTX"].available
    monkeypatch.setattr("nvtx.enabled", lambda: False)
    assert "NVTX_DISABLE" in rows("tracing", machine())["NVTX"].reason


def test_what_the_kernel_does_not_tell_is_named() -> None:
    blind = rows("tracing", machine(host=replace(HOST, peak_can_be_reset=False)))
    assert not blind["peak memory"].available
    assert not blind["CPU pressure"].available
    seeing = rows("tracing", machine(files={"/proc/pressure/cpu": "some avg10=0.00 total=1"}))
    assert seeing["peak memory"].available
    assert seeing["CPU pressure"].available
