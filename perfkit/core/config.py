"""RunConfig: everything a user may ask of one run, validated where it is typed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perfkit.core.errors import PerfkitError, first_problem

MIN_LOCAL_BATCH = 2  # BatchNorm over features cannot train on one sample

StrategyName = Literal["serial", "ddp", "model_parallel", "ddp_model_parallel"]
RUN_NAME = r"^\w[\w.+-]*$"
Positive = Annotated[int, Field(ge=1)]
Devices = Annotated[int, Field(ge=1, le=65536)]
Batch = Annotated[int, Field(ge=MIN_LOCAL_BATCH)]


class RunConfig(BaseModel):
    """One run: what is trained, how it is spread over devices, and how it is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workload: str = "glaucoma"
    """What to train: a built-in name, or my_package.my_module:MyWorkload."""
    data: Path | None = None
    """Folder of the data set; without it the workload makes synthetic data."""
    strategy: StrategyName = "serial"
    """How the training is spread over devices."""
    gpus: Devices | None = None
    """Devices in all. Without enough GPUs the CPU stands in for them, and every table says so."""
    ranks: Devices | None = None
    """Processes. Follows from --gpus; says how many stage groups ddp_model_parallel makes."""
    placement: Literal["contiguous", "interleaved"] | None = None
    """Where model parallel puts the stages: runs balanced by measured cost, or in turn."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to run; with cuda, too few GPUs are an error instead of a notice."""
    oversubscribe: bool = False
    """Let several devices share one GPU (gloo instead of NCCL). For tests: the run is tainted."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads of each rank. Default: the cores of this host shared among its ranks."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Loader worker processes of each rank; 0 loads in the training process."""
    global_batch: Batch | None = None
    """Samples a step over all ranks, whatever their number (strong scaling)."""
    local_batch: Batch | None = None
    """Samples a step in each rank (weak scaling). Default: 32 on a GPU, 4 on a CPU."""
    image_size: Annotated[int, Field(ge=16)] | None = None
    """Side of the square training image in pixels. Default: 224 on a GPU, 96 on a CPU."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, data order and augmentation."""
    steps: Positive | None = None
    """Timed steps of each cell, over all rounds. Default: 120 on a GPU, 12 on a CPU."""
    rounds: Annotated[int, Field(ge=2)] = 4
    """Blocks the timed pass is cut into; strategy and baseline take turns in each."""
    warmup: Annotated[int, Field(ge=3)] = 12
    """Most warm-up steps; warm-up ends earlier once the step time is stable."""
    trace_steps: Annotated[int, Field(ge=0)] = 2
    """Steps of the traced pass; 0 leaves it out."""
    baseline: Literal["serial", "none"] = "serial"
    """What a run on more than one device is measured beside."""
    runs: Path = Path("runs")
    """Folder that run folders are made in."""
    name: Annotated[str, Field(pattern=RUN_NAME, max_length=200)] | None = None
    """Name of the run folder. Default: time, workload, strategy and devices."""

    @model_validator(mode="after")
    def _one_scaling_mode(self) -> Self:
        if self.global_batch is not None and self.local_batch is not None:
            raise ValueError(
                f"--global-batch {self.global_batch} and --local-batch {self.local_batch} exclude "
                "each other: the first fixes the work (strong scaling), the second the work of "
                "each rank (weak scaling); give one"
            )
        return self

    @property
    def scaling(self) -> Literal["strong", "weak"]:
        """Strong: the global batch is fixed; weak: the local batch is."""
        return "weak" if self.global_batch is None else "strong"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options of a TOML file, each of the type that RunConfig gives it.

    Raises PerfkitError where the file is missing, is not TOML, or asks for what RunConfig refuses.
    """
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PerfkitError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PerfkitError(f"--config {path}: is not TOML ({error})") from None
    unknown = sorted(set(options) - set(RunConfig.model_fields))
    if unknown:
        raise PerfkitError(
            f"--config {path}: unknown option {unknown[0]!r}; known are "
            + ", ".join(RunConfig.model_fields)
        )
    try:
        return RunConfig(**options).model_dump(include=set(options))
    except ValidationError as error:
        option, value, reason = first_problem(error)
        where = f"{option} = {value!r}: " if option else ""
        raise PerfkitError(f"--config {path}: {where}{reason}") from None
