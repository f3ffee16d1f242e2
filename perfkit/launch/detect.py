"""Who am I, and how many are we: read from what torchrun, mpirun or srun put in the environment."""

from __future__ import annotations

import os
import re
import subprocess
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from perfkit.core.errors import PerfkitError

LAUNCHER_VARIABLE = "PERFKIT_LAUNCHER"
FIRST_PORT = 20000
LAST_PORT = 29999


@dataclass(frozen=True)
class Place:
    """The place of this process among the ranks of one run.

    ``launcher`` is torchrun, perfkit, openmpi, mpich (Intel MPI too) or slurm; ``local_rank`` and
    ``local_world_size`` count the ranks on this machine; rank 0 listens at ``master_addr``, port
    ``master_port``.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int


@dataclass(frozen=True)
class _Launcher:
    """One row: the variable that only this launcher sets, and the names of its numbers.

    ``mpi_options`` tell mpirun what ranks on several machines cannot agree on by themselves.
    """

    name: str
    marker: str
    rank: str
    world_size: str
    local_rank: str
    local_world_size: str
    mpi_options: str = ""


_TORCHRUN = _Launcher(
    name="torchrun",
    marker="RANK",
    rank="RANK",
    world_size="WORLD_SIZE",
    local_rank="LOCAL_RANK",
    local_world_size="LOCAL_WORLD_SIZE",
)
_OPENMPI = _Launcher(
    name="openmpi",
    marker="OMPI_COMM_WORLD_RANK",
    rank="OMPI_COMM_WORLD_RANK",
    world_size="OMPI_COMM_WORLD_SIZE",
    local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
    local_world_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    mpi_options="-x MASTER_ADDR=<first host>",
)
_MPICH = _Launcher(
    name="mpich",
    marker="MPI_LOCALRANKID",
    rank="PMI_RANK",
    world_size="PMI_SIZE",
    local_rank="MPI_LOCALRANKID",
    local_world_size="MPI_LOCALNRANKS",
    mpi_options="-genv MASTER_ADDR <first host> -genv MASTER_PORT <free port>",
)
_SLURM = _Launcher(
    name="slurm",
    # A batch script has SLURM_PROCID, SLURM_LOCALID and SLURM_NTASKS too, but no step of its own.
    marker="SLURM_STEP_NUM_TASKS",
    rank="SLURM_PROCID",
    world_size="SLURM_STEP_NUM_TASKS",
    local_rank="SLURM_LOCALID",
    local_world_size="SLURM_STEP_TASKS_PER_NODE",
)
# The first row whose marker is set wins, so inner launchers come first: torchrun may run in an srun
# task, and mpirun starts its daemons with srun. `srun --mpi=pmi2` sets PMI_RANK but none of MPICH's
# local numbers, hence SLURM before a bare PMI_RANK, which is then named as incomplete.
_LAUNCHERS = (_TORCHRUN, _OPENMPI, _MPICH, _SLURM, replace(_MPICH, marker="PMI_RANK"))


def slurm_hostnames(nodelist: str) -> Sequence[str]:
    """Return the host names in a SLURM node list such as ``n[1-2]``.

    Raises PerfkitError when ``scontrol`` cannot tell.
    """
    try:
        listing = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise PerfkitError(
            f"`scontrol show hostnames {nodelist}` failed ({error}); "
            "export MASTER_ADDR=<first host> before srun"
        ) from None
    return listing.stdout.split()


def mpich_job() -> str:
    """Return what the ranks of one MPICH job on this machine share: the pid of their proxy.

    Hydra starts every rank in a session of its own, and wrapper scripts stay in that session, so
    the proxy is the parent of the session's leader. Raises PerfkitError where a container hides it.
    """
    try:
        return str(psutil.Process(os.getsid(0)).ppid())
    except psutil.Error:
        raise PerfkitError(
            "mpich gives its ranks no common port; add `-genv MASTER_PORT <free port>` to mpirun"
        ) from None


def detect(
    environ: Mapping[str, str],
    *,
    hostnames: Callable[[str], Sequence[str]] = slurm_hostnames,
    mpich_job: Callable[[], str] = mpich_job,
) -> Place | None:
    """Return this process's place in the run that started it, or None when it is alone.

    Alone is also a bare batch or salloc script of SLURM and a shell in a one-task step
    (``srun --pty``): there, perfkit starts the ranks itself.

    MASTER_ADDR and MASTER_PORT win where they are set. Otherwise the address is 127.0.0.1 on one
    machine, and the first host of the step's node list under SLURM. The port is 20000 plus the
    CRC-32 of the job's own id modulo 10000: all ranks agree on it, two jobs at a time on one host
    collide once in ten thousand, and Linux hands no port of that range to outgoing connections.

    Raises PerfkitError, naming the variable, when one is missing or makes no sense, and when MPI
    ranks on several machines were not told MASTER_ADDR.
    """
    launcher = next((row for row in _LAUNCHERS if environ.get(row.marker)), None)
    if launcher is None or (launcher is _SLURM and _is_shell(environ)):
        return None
    variables = _Variables(environ, launcher)
    rank = variables.integer(launcher.rank)
    world_size = variables.integer(launcher.world_size, at_least=1)
    local_rank = variables.integer(launcher.local_rank)
    if launcher is _SLURM:
        local_world_size = _slurm_local_world_size(variables)
    else:
        local_world_size = variables.integer(launcher.local_world_size, at_least=1)
    _check_below(launcher.rank, rank, launcher.world_size, world_size)
    _check_below(launcher.local_rank, local_rank, launcher.local_world_size, local_world_size)
    one_machine = local_world_size == world_size
    own_spawn = launcher is _TORCHRUN and environ.get(LAUNCHER_VARIABLE)
    return Place(
        launcher=own_spawn or launcher.name,
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        master_addr=_master_addr(variables, one_machine, hostnames),
        master_port=_master_port(variables, one_machine, mpich_job),
    )


@dataclass(frozen=True)
class _Variables:
    """The environment as one launcher filled it, read with errors that name the variable."""

    environ: Mapping[str, str]
    launcher: _Launcher

    def text(self, name: str) -> str:
        value = self.environ.get(name)
        if not value:
            marker = self.launcher.marker
            raise PerfkitError(
                f"{marker} is set ({self.launcher.name}) but {name} is not; "
                f"set {name}, or unset {marker} to run alone"
            )
        return value

    def integer(self, name: str, *, at_least: int = 0, at_most: int | None = None) -> int:
        text = self.text(name)
        value = int(text) if re.fullmatch(r"-?\d+", text, re.ASCII) else None
        if value is None or value < at_least or (at_most is not None and value > at_most):
            allowed = f"{at_least} or more" if at_most is None else f"{at_least} to {at_most}"
            raise PerfkitError(
                f"{name}={text!r} ({self.launcher.name}) must be an integer, {allowed}; "
                f"correct it, or unset {self.launcher.marker} to run alone"
            )
        return value

    def missing_on_machines(self, name: str) -> PerfkitError:
        return PerfkitError(
            f"{name} is not set, and {self.launcher.name} runs on several machines; "
            f"add `{self.launcher.mpi_options}` to mpirun"
        )


def _is_shell(environ: Mapping[str, str]) -> bool:
    # salloc's interactive step has SLURM_PTY_PORT too. An srun typed in such a shell passes the
    # variable on to its tasks, so it says nothing about a step of several tasks.
    return bool(environ.get("SLURM_PTY_PORT")) and environ["SLURM_STEP_NUM_TASKS"] == "1"


def _master_addr(
    variables: _Variables, one_machine: bool, hostnames: Callable[[str], Sequence[str]]
) -> str:
    launcher = variables.launcher
    if launcher is _TORCHRUN or variables.environ.get("MASTER_ADDR"):
        return variables.text("MASTER_ADDR")
    if one_machine:
        return "127.0.0.1"
    if launcher is _SLURM:
        return hostnames(variables.text("SLURM_STEP_NODELIST"))[0]
    raise variables.missing_on_machines("MASTER_ADDR")


def _master_port(variables: _Variables, one_machine: bool, mpich_job: Callable[[], str]) -> int:
    launcher = variables.launcher
    if launcher is _TORCHRUN or variables.environ.get("MASTER_PORT"):
        return variables.integer("MASTER_PORT", at_least=1, at_most=65535)
    if launcher is _SLURM:
        job = f"{variables.text('SLURM_JOB_ID')}.{variables.text('SLURM_STEP_ID')}"
    elif launcher is _OPENMPI:
        job = variables.text("PMIX_NAMESPACE")
    elif one_machine:
        job = mpich_job()
    else:
        raise variables.missing_on_machines("MASTER_PORT")
    return FIRST_PORT + zlib.crc32(job.encode()) % (LAST_PORT - FIRST_PORT + 1)


def _slurm_local_world_size(variables: _Variables) -> int:
    name = _SLURM.local_world_size
    text = variables.text(name)
    tasks: list[int] = []
    for part in text.split(","):
        # "2(x3),1" is two tasks on each of three nodes, then one.
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part, re.ASCII)
        if match is None:
            raise PerfkitError(
                f"{name}={text!r} must list the tasks per node, such as 2(x3),1; "
                f"correct it, or unset {_SLURM.marker} to run alone"
            )
        tasks += [int(match[1])] * int(match[2] or 1)
    node = variables.integer("SLURM_NODEID")
    _check_below("SLURM_NODEID", node, f"nodes in {name}", len(tasks))
    return tasks[node]


def _check_below(name: str, value: int, limit_name: str, limit: int) -> None:
    if value >= limit:
        raise PerfkitError(
            f"{name}={value} must be below {limit_name}={limit}; start the ranks again"
        )
