"""The environments below are what Debian 12's launchers and torchrun set, trimmed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from perfkit.core.errors import PerfkitError
from perfkit.launch.detect import FIRST_PORT, LAST_PORT, Place, detect, slurm_hostnames

TORCHRUN = {
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "42899",
    "RANK": "1",
    "ROLE_RANK": "1",
    "ROLE_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "6be37741-2926-461d-a3cf-ae89877f458d",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "WORLD_SIZE": "2",
}
TORCHRUN_ONE_RANK = {
    **TORCHRUN,
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "RANK": "0",
    "WORLD_SIZE": "1",
}
PERFKIT = {
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "35001",
    "PERFKIT_LAUNCHER": "perfkit",
    "RANK": "1",
    "WORLD_SIZE": "2",
}
OPENMPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_MCA_ess_base_jobid": "2115371009",
    "OMPI_UNIVERSE_SIZE": "2",
    "PMIX_NAMESPACE": "2115371009",
    "PMIX_RANK": "1",
}
MPICH = {
    "MPIR_CVAR_CH3_INTERFACE_HOSTNAME": "host",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "8",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
# `srun -N2 -n2`
SRUN = {
    "SLURMD_NODENAME": "n2",
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_NPROCS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
# `srun -N1 -n1 -w n2` inside a batch job on both nodes
SRUN_ONE_TASK = {
    **SRUN,
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NODELIST": "n2",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
# `srun -n3` on two nodes
SRUN_UNEVEN = {
    **SRUN,
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
SBATCH = {
    "SLURMD_NODENAME": "n1",
    "SLURM_JOB_ID": "3",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "1(x2)",
    "SLURM_TASK_PID": "5059",
}
SALLOC = {
    "SLURM_JOB_ID": "4",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}
# salloc where the site starts the shell as an interactive step
SALLOC_STEP = {
    **SALLOC,
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_PTY_PORT": "46761",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
SRUN_PTY = {**SRUN_ONE_TASK, "SLURM_PTY_PORT": "33065"}
# `mpirun.openmpi -np 2` in a batch script on two nodes; MPI daemons are an srun step themselves
OPENMPI_IN_SLURM = {
    **SRUN,
    **OPENMPI,
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "PMIX_NAMESPACE": "2130968577",
    "SLURM_STEP_ID": "2",
}
MPICH_IN_SLURM = {
    **SRUN,
    **MPICH,
    "MPI_LOCALNRANKS": "1",
    "MPI_LOCALRANKID": "0",
    "SLURM_STEP_ID": "3",
}
SRUN_PMI2 = {**SRUN, "PMI_FD": "11", "PMI_JOBID": "6.0", "PMI_RANK": "1", "PMI_SIZE": "2"}
TORCHRUN_IN_SRUN = {
    **SRUN,
    **TORCHRUN,
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_PORT": "39053",
}


def hostnames(nodelist: str) -> Sequence[str]:
    return {"n[1-2]": ["n1", "n2"], "n2": ["n2"]}[nodelist]


def place(environ: dict[str, str], job: str = "4839") -> Place:
    found = detect(environ, hostnames=hostnames, mpich_job=lambda: job)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("environ", "launcher", "numbers", "address"),
    [
        (TORCHRUN, "torchrun", (1, 2, 1, 2), "localhost"),
        (PERFKIT, "perfkit", (1, 2, 1, 2), "127.0.0.1"),
        (OPENMPI, "openmpi", (1, 2, 1, 2), "127.0.0.1"),
        (MPICH, "mpich", (1, 2, 1, 2), "127.0.0.1"),
        (SRUN, "slurm", (1, 2, 0, 1), "n1"),
        (SRUN_ONE_TASK, "slurm", (0, 1, 0, 1), "127.0.0.1"),
        (SRUN_UNEVEN, "slurm", (1, 3, 1, 2), "n1"),
        (SRUN_PMI2, "slurm", (1, 2, 0, 1), "n1"),
        (TORCHRUN_IN_SRUN, "torchrun", (1, 2, 0, 1), "localhost"),
        ({**SRUN, **OPENMPI}, "openmpi", (1, 2, 1, 2), "127.0.0.1"),
        ({**SRUN, **MPICH}, "mpich", (1, 2, 1, 2), "127.0.0.1"),
        # a shell's variable is still there in an srun typed in that shell
        ({**SRUN, "SLURM_PTY_PORT": "35743"}, "slurm", (1, 2, 0, 1), "n1"),
        # one rank is still a run of its launcher
        (TORCHRUN_ONE_RANK, "torchrun", (0, 1, 0, 1), "localhost"),
    ],
)
def test_every_launcher_is_recognised(
    environ: dict[str, str], launcher: str, numbers: tuple[int, ...], address: str
) -> None:
    found = place(environ)
    assert (found.launcher, found.master_addr) == (launcher, address)
    assert (found.rank, found.world_size, found.local_rank, found.local_world_size) == numbers


@pytest.mark.parametrize("environ", [{}, SBATCH, SALLOC, SALLOC_STEP, SRUN_PTY])
def test_a_process_that_nobody_started_as_a_rank_is_alone(environ: dict[str, str]) -> None:
    assert detect(environ, hostnames=hostnames) is None


@pytest.mark.parametrize("environ", [OPENMPI, MPICH, SRUN, OPENMPI_IN_SLURM, MPICH_IN_SLURM])
def test_address_and_port_of_the_environment_win(environ: dict[str, str]) -> None:
    found = place({**environ, "MASTER_ADDR": "head", "MASTER_PORT": "1234"})
    assert (found.master_addr, found.master_port) == ("head", 1234)


@pytest.mark.parametrize(
    ("environ", "other_rank", "other_job"),
    [
        (SRUN, {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}, {"SLURM_STEP_ID": "1"}),
        (SRUN, {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}, {"SLURM_JOB_ID": "2"}),
        (
            OPENMPI,
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            {"PMIX_NAMESPACE": "2115371010"},
        ),
    ],
)
def test_ranks_of_a_job_agree_on_a_port_that_another_job_does_not_use(
    environ: dict[str, str], other_rank: dict[str, str], other_job: dict[str, str]
) -> None:
    port = place(environ).master_port
    assert FIRST_PORT <= port <= LAST_PORT
    assert place({**environ, **other_rank}).master_port == port
    assert place({**environ, **other_job}).master_port != port


def test_ranks_of_an_mpich_job_agree_through_their_proxy() -> None:
    port = place(MPICH, job="4839").master_port
    assert FIRST_PORT <= port <= LAST_PORT
    assert place({**MPICH, "PMI_RANK": "0", "PMI_FD": "6"}, job="4839").master_port == port
    assert place(MPICH, job="4840").master_port != port


@pytest.mark.parametrize(
    ("environ", "option"),
    [
        (OPENMPI_IN_SLURM, "-x MASTER_ADDR=<first host>"),
        (MPICH_IN_SLURM, "-genv MASTER_ADDR <first host> -genv MASTER_PORT <free port>"),
        ({**MPICH_IN_SLURM, "MASTER_ADDR": "head"}, "-genv MASTER_PORT <free port>"),
    ],
)
def test_mpi_on_several_machines_says_which_option_is_missing(
    environ: dict[str, str], option: str
) -> None:
    with pytest.raises(PerfkitError) as caught:
        place(environ)
    assert option in str(caught.value)


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (without(TORCHRUN, "WORLD_SIZE"), "WORLD_SIZE"),
        (without(TORCHRUN, "LOCAL_RANK"), "LOCAL_RANK"),
        (without(TORCHRUN, "MASTER_ADDR"), "MASTER_ADDR"),
        (without(TORCHRUN, "MASTER_PORT"), "MASTER_PORT"),
        ({**TORCHRUN, "RANK": "one"}, "RANK"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK"),
        ({**TORCHRUN, "RANK": "2"}, "RANK"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "LOCAL_RANK"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, "WORLD_SIZE"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "MASTER_PORT"),
        (without(OPENMPI, "OMPI_COMM_WORLD_SIZE"), "OMPI_COMM_WORLD_SIZE"),
        (without(OPENMPI, "PMIX_NAMESPACE"), "PMIX_NAMESPACE"),
        (without(MPICH, "PMI_SIZE"), "PMI_SIZE"),
        # another launcher's PMI: not enough to know who shares this machine
        (without(MPICH, "MPI_LOCALRANKID"), "MPI_LOCALRANKID"),
        (without(SRUN, "SLURM_PROCID"), "SLURM_PROCID"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "two"}, "SLURM_STEP_TASKS_PER_NODE"),
        ({**SRUN, "SLURM_NODEID": "2"}, "SLURM_NODEID"),
        ({**SRUN, "SLURM_PROCID": "2"}, "SLURM_PROCID"),
        ({**SRUN, "MASTER_PORT": "auto"}, "MASTER_PORT"),
    ],
)
def test_a_variable_that_is_missing_or_makes_no_sense_is_named(
    environ: dict[str, str], name: str
) -> None:
    with pytest.raises(PerfkitError) as caught:
        place(environ)
    message = str(caught.value)
    assert f"{name} is not" in message or message.startswith(f"{name}=")
    assert "\n" not in message


def test_without_scontrol_the_user_is_asked_for_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("scontrol")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(PerfkitError, match="export MASTER_ADDR=<first host>"):
        slurm_hostnames("n[1-2]")


def test_ranks_behind_a_wrapper_script_find_the_proxy_that_started_it() -> None:
    code = "from perfkit.launch.detect import mpich_job; print(mpich_job())"
    rank = subprocess.run(
        ["sh", "-c", f"{sys.executable} -c '{code}'; true"],
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert rank.stdout.strip() == str(os.getpid())
