"""What a user may ask of one run, validated where it is typed.

``RunConfig`` is what is trained and where, which every command that trains takes; ``ProfileConfig``
and ``TrainConfig`` add how it is measured and how long it trains, and ``SessionConfig`` is what
there is to say of somebody's own loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from perfkit.core.errors import PerfkitError, first_problem
from perfkit.core.files import read_toml_file

MIN_LOCAL_BATCH = 2  # BatchNorm over features cannot train on one sample

StrategyName = Literal["serial", "ddp", "model_parallel", "ddp_model_parallel"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Preprocess = Literal["none", "loader", "device", "offline"]
Ops = Literal["fused", "reference"]
VARIED = (
    *("precision", "threads", "workers", "global_batch", "local_batch", "placement"),
    *("preprocess", "ops"),
)
"""Options that a run can be measured beside another value of: they leave its layout as it is."""
RUN_NAME = r"^\w[\w.+-]*$"
Positive = Annotated[int, Field(ge=1, le=10**9)]
Devices = Annotated[int, Field(ge=1, le=65536)]
Batch = Annotated[int, Field(ge=MIN_LOCAL_BATCH)]


class RunConfig(BaseModel):
    """What is trained, how it is spread over devices, and where the result goes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workload: str = "glaucoma"
    """What to train: a built-in name, or my_package.my_module:MyWorkload."""
    model: str | None = None
    """Which of the workload's models to train. Default: the one that was published with it."""
    weights: Path | None = None
    """File of pretrained weights to start from (.pth, .pt or .bin); nothing is ever downloaded."""
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
    precision: Precision = "fp32"
    """Of matrix products and convolutions; bf16 and fp16 by automatic mixed precision."""
    preprocess: Preprocess | None = None
    """Where CLAHE, gamma and median run: in the loader, on the device after an upload of bytes,
    once for a stored set, or not at all. Default: as published with the workload."""
    ops: Ops = "fused"
    """What runs CLAHE, gamma and median, and the model's Squeeze-and-Excitation: the native
    operators, or their references in plain torch."""
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
    epochs: Positive = 10
    """Epochs of the whole training, over which the learning rate follows its schedule."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, data order, augmentation, and the split of a data set that has none."""
    deterministic: bool = False
    """Use deterministic algorithms only: the same bits from run to run on the same machine."""
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


class ProfileConfig(RunConfig):
    """One profiled run: what is trained, and how it is measured."""

    steps: Positive | None = None
    """Timed steps of each cell, over all rounds. Default: 120 on a GPU, 12 on a CPU."""
    rounds: Annotated[int, Field(ge=2)] = 4
    """Blocks the timed pass is cut into; strategy and baseline take turns in each."""
    warmup: Annotated[int, Field(ge=3)] = 12
    """Most warm-up steps; warm-up ends earlier once the step time is stable."""
    trace_steps: Annotated[int, Field(ge=0)] = 2
    """Steps of the traced pass; 0 leaves it out."""
    baseline: tuple[str, ...] = ("serial",)
    """What to measure beside the run: serial, none, or an option with another value, such as
    workers=1 or precision=fp32; several may be named."""

    @field_validator("baseline", mode="before")
    @classmethod
    def _one_or_several(cls, baseline: Any) -> Any:
        return (baseline,) if isinstance(baseline, str) else baseline

    @model_validator(mode="after")
    def _baselines_can_be_made(self) -> Self:
        if not self.baseline:
            raise ValueError("baseline is empty: name serial, none, or another value of an option")
        if "none" in self.baseline and len(self.baseline) > 1:
            raise ValueError("--baseline none: leaves nothing to measure beside; name it alone")
        self.variants()
        return self

    def variants(self) -> dict[str, ProfileConfig]:
        """Return this config with another value of one option, by ``option=value``.

        Raises ValueError for a baseline that is not of that form, or that changes nothing.
        """
        found: dict[str, ProfileConfig] = {}
        for spec in self.baseline:
            if spec in {"serial", "none"}:
                continue
            option, equals, value = spec.partition("=")
            field = option.replace("-", "_")
            if not equals or field not in VARIED:
                raise ValueError(
                    f"--baseline {spec}: has to be serial, none, or another value of one of "
                    f"{', '.join(VARIED)}, as in workers=1"
                )
            own = self.model_dump() | {"baseline": ("none",)}
            if field in {"global_batch", "local_batch"}:
                own |= {"global_batch": None, "local_batch": None}
            try:
                changed = self.model_validate(own | {field: value})
            except ValidationError as error:
                _, _, reason = first_problem(error)
                raise ValueError(f"--baseline {spec}: {reason}") from None
            if changed in found.values():
                raise ValueError(f"--baseline {spec}: is named twice")
            if getattr(changed, field) == getattr(self, field):
                raise ValueError(f"--baseline {spec}: is what the run itself has")
            found[spec] = changed
        return found


class TrainConfig(RunConfig):
    """One training, epoch after epoch."""

    monitor: Literal["loss", "accuracy", "auc", "f1"] = "loss"
    """What tells the best epoch, on the validation set."""
    patience: Positive | None = None
    """Stop after this many epochs in a row without a better one. Default: train all epochs."""
    resume: Path | None = None
    """Run folder of a training to go on with; its options hold, but for those that do not change
    what is trained (data, device, preprocess, ops, threads, workers, patience)."""


class SessionConfig(BaseModel):
    """What is known of a loop that is not perfkit's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workload: str
    """Name of the script."""
    warmup: int
    """Steps before the timed ones."""
    steps: int
    """Timed steps."""
    trace_steps: int
    """Traced steps after the timed ones."""
    image_size: None = None
    """Not known of a loop of one's own."""


def read_toml(path: Path, model: type[RunConfig]) -> dict[str, Any]:
    """Return the options of a TOML file, each of the type that ``model`` gives it.

    Raises PerfkitError where the file is missing, is not TOML, or asks for what ``model`` refuses.
    """
    options = read_toml_file(path, f"--config {path}")
    unknown = sorted(set(options) - set(model.model_fields))
    if unknown:
        raise PerfkitError(
            f"--config {path}: unknown option {unknown[0]!r}; known are "
            + ", ".join(model.model_fields)
        )
    try:
        return model(**options).model_dump(include=set(options))
    except ValidationError as error:
        option, value, reason = first_problem(error)
        where = f"{option} = {value!r}: " if option else ""
        raise PerfkitError(f"--config {path}: {where}{reason}") from None
