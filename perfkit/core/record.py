"""The Record: everything one run found out, as one schema-versioned JSON file.

Tables, figures and benchmark histories are views of it: it keeps every sample and nothing that
could be derived from them. ``perfkit.analysis`` derives.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError

SCHEMA_MAJOR = 1
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.0"
RECORD_NAME = "record.json"

FOREIGN_LOAD_BOUND = 0.10
"""Share of the host's CPU time that other processes may take before numbers are doubtful."""

Role = Literal["strategy", "baseline", "ablation"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Gpu(_Part):
    """One GPU as its driver describes it."""

    name: str
    memory_mib: float
    compute_capability: str


class Environment(_Part):
    """Where the run happened; two runs on the same hardware have the same ``hardware``."""

    hostname: str
    hardware: str
    """CPU model, core count and GPU names in one line: equal exactly on equal hardware."""
    cpu: str
    cores: int
    """Cores that this process may use (its affinity), not those of the host."""
    memory_mib: float
    gpus: list[Gpu]
    versions: dict[str, str]
    """Of python, perfkit, torch, torchvision, CUDA, cuDNN and NCCL, as far as present."""
    variables: dict[str, str]
    """Environment variables that change speed (OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES, ...)."""
    launcher: str
    git_commit: str | None
    git_dirty: bool | None
    deterministic: bool
    cudnn_benchmark: bool
    tf32_matmul: bool
    tf32_convolution: bool


class Gate(_Part):
    """The correctness gate: float64 training under the strategy against serial training."""

    steps: int
    global_batch: int
    max_abs_difference: float
    """Largest absolute difference of any parameter after the last step."""
    tolerance: float


class StageObservation(_Part):
    """What forward hooks saw of one stage in one rank during the first step."""

    rank: int
    stage: int
    modules: int
    parameters: int
    parameter_devices: list[str]
    parameter_dtypes: list[str]
    input_devices: list[str]
    output_devices: list[str]
    activation_dtypes: list[str]


class Memory(_Part):
    """Peak memory of one rank over its timed blocks, in MiB; what cannot be read is None."""

    cpu_peak_mib: float | None
    """High-water mark of this process's resident set (VmHWM, reset before each block)."""
    cpu_pss_mib: float | None
    """Proportional set size of this process and its loader workers after the last block."""
    cuda_allocated_mib: list[float]
    """torch.cuda.max_memory_allocated of each device of the rank; empty on a CPU."""
    cuda_reserved_mib: list[float]


class StepSample(_Part):
    """One step of one rank. Times are host seconds; ``device_phases_s`` are CUDA-event seconds."""

    host_s: float
    phases_s: dict[str, float]
    device_phases_s: dict[str, float]
    communication_s: float | None
    """Host seconds of explicit moves between devices (model parallel), else None."""
    loss: float


class Block(_Part):
    """Some timed steps of one rank in a row, in round ``round``."""

    round: int
    rank: int
    wall_s: float
    turn_cpu_s: float
    """CPU seconds of the rank's process tree over its whole turn, the untimed lead-in included."""
    steps: list[StepSample]


class HostLoad(_Part):
    """What else this host did during one block of one cell."""

    round: int
    foreign_cpu_share: float | None
    """CPU time of other processes over all CPU time there was, 0..1."""
    pressure_share: float | None
    """Share of the block in which some task waited for a CPU (PSI), 0..1."""
    steal_share: float | None


class Cell(_Part):
    """One configuration measured: the strategy itself, a baseline, or an ablation."""

    role: Role
    label: str
    strategy: str
    ranks: int
    devices_per_rank: int
    devices: list[list[str]]
    """Names of the devices of each rank."""
    backend: str | None
    threads: int
    """CPU threads of each rank."""
    workers: int
    local_batch: int
    global_batch: int
    ceiling: float
    """The most this strategy can gain over one device."""
    time_to_first_step_s: list[float]
    """Of each rank: from the start of its process to the end of its first step."""
    warmup_step_s: list[float]
    """Step times of rank 0 during warm-up, the first step not among them."""
    observed: list[StageObservation]
    placement: list[int]
    stage_cost_s: list[float]
    crossings: int | None
    """Times an activation was seen to change device in one forward; None without stages."""
    blocks: list[Block]
    load: list[HostLoad]
    memory: list[Memory]


class TraceFile(_Part):
    """A trace in the run folder; ``rank`` is None for the merged one."""

    path: str
    rank: int | None
    size_bytes: int
    events: int
    steps: int
    ranges: dict[str, int]
    gpu_kernels: int


class Traces(_Part):
    """The traced pass. Its times explain; they are never the result."""

    step_s: list[float]
    files: list[TraceFile]


class DataFacts(_Part):
    """What the run trained on."""

    name: str
    train_samples: int
    samples_per_epoch: int
    class_counts: list[int]
    skipped: list[str]


class Record(_Part):
    """One run."""

    schema_version: str = SCHEMA_VERSION
    name: str
    created_at: str
    status: Literal["complete", "incomplete"]
    kind: Literal["quick look"]
    """A quick look is one process per cell: it does not cover variation between processes."""
    scaling: Literal["strong", "weak"]
    config: RunConfig
    """As resolved: what the user left open is filled in."""
    environment: Environment
    data: DataFacts
    parameters: int
    gate: Gate | None
    """None where the strategy is serial training itself."""
    cells: list[Cell]
    """The strategy first."""
    traces: Traces | None
    taints: list[str]
    """Whatever makes the numbers doubtful."""


def write_record(record: Record, folder: Path) -> Path:
    """Write ``record.json`` into ``folder``, whole or not at all."""
    path = folder / RECORD_NAME
    write_atomically(path, orjson.dumps(record.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)  # mkstemp makes it private; a run folder is shared
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_record(path: Path) -> Record:
    """Return the Record in a run folder or file; PerfkitError says what is wrong with it."""
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        content: Any = orjson.loads(file.read_bytes())
    except OSError as error:
        raise PerfkitError(
            f"{file}: cannot be read ({error.strerror}); name a run folder"
        ) from None
    except orjson.JSONDecodeError as error:
        raise PerfkitError(
            f"{file}: is not a whole JSON file ({error}); the run must be made again"
        ) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version.partition(".")[0].isdigit():
        raise PerfkitError(f"{file}: is not a perfkit Record (it has no schema_version)")
    if int(version.partition(".")[0]) > SCHEMA_MAJOR:
        raise PerfkitError(
            f"{file}: has schema version {version}, this perfkit reads up to {SCHEMA_MAJOR}.x; "
            "update perfkit"
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise PerfkitError(f"{file}: is not a valid Record ({where}: {problem['msg']})") from None
