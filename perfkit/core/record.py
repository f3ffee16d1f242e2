"""The Record: everything one run found out, as one schema-versioned JSON file.

Tables, figures and benchmark histories are views of it: it keeps every sample and nothing that
could be derived from them. ``perfkit.analysis`` derives.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from perfkit.core.config import (
    RUN_NAME,
    Ops,
    Precision,
    Preprocess,
    ProfileConfig,
    SessionConfig,
    TrainConfig,
)
from perfkit.core.environment import Environment
from perfkit.core.errors import PerfkitError
from perfkit.core.part import Amount, Count, Number, Part, PositiveAmount, PositiveCount, Share
from perfkit.core.trace_summary import Traces
from perfkit.core.training_result import TrainingResult
from perfkit.core.versioned import read_versioned, write_versioned

SCHEMA_MAJOR, SCHEMA_MINOR = 1, 4
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}"
RECORD_NAME = "record.json"

FOREIGN_LOAD_BOUND = 0.10
"""Share of the host's CPU time that other processes may take before numbers are doubtful."""
FOREIGN_LOAD = "other processes took"
"""How a taint begins that says so."""

GPU = "GPU-"
"""What the names of energy counters of GPUs begin with, as UUIDs of NVML do."""

Role = Literal["strategy", "baseline", "variant", "ablation"]


class Gate(Part):
    """The correctness gate: float64 training under the strategy against serial training, whose SE
    blocks are run by the reference."""

    steps: Count
    """Training steps that both took."""
    global_batch: Count
    """Samples of each of those steps, over all ranks."""
    squeeze_excites: dict[str, Count] = Field(default_factory=dict)
    """SE blocks that rank 0 ran in all of those steps under the strategy, by what was seen to run
    them; on a GPU float64 is for the reference."""
    max_abs_difference: Amount
    """Largest absolute difference of any parameter after the last step."""
    tolerance: Amount
    """The most that was allowed."""


class StageObservation(Part):
    """What forward hooks saw of one stage in one rank during the first step."""

    rank: Count
    """Rank whose hooks these were."""
    stage: Count
    """Index of the stage in the order of the forward; without stages the model is stage 0."""
    modules: Count
    """Modules in the stage, itself included."""
    parameters: Count
    """Scalars in the parameters of the stage."""
    parameter_devices: list[str]
    """Distinct devices of the parameters (cuda:1, cpu, stand-in:0)."""
    parameter_dtypes: list[str]
    """Distinct dtypes of the parameters (torch.float32)."""
    input_devices: list[str]
    """Distinct devices of the tensors that went in."""
    output_devices: list[str]
    """Distinct devices of the tensors that came out."""
    activation_dtypes: list[str]
    """Distinct dtypes of the tensors that went in and came out."""


class Memory(Part):
    """Peak memory of one rank over its timed blocks, in MiB; what cannot be read is None."""

    cpu_peak_mib: PositiveAmount | None
    """High-water mark of this process's resident set (VmHWM, reset before each block)."""
    cpu_pss_mib: Amount | None
    """Proportional set size of this process and its loader workers after the last block."""
    cuda_allocated_mib: list[Amount]
    """torch.cuda.max_memory_allocated of each device of the rank; empty on a CPU."""
    cuda_reserved_mib: list[Amount]
    """torch.cuda.max_memory_reserved of each device of the rank; empty on a CPU."""


class StepSample(Part):
    """One step of one rank."""

    host_s: Amount
    """Seconds of the whole step on the host clock; a GPU may still be at work when it ends."""
    phases_s: dict[str, Amount]
    """Host seconds of data_wait, host_to_device, forward, backward and optimizer; of preprocess
    where images are preprocessed on the device."""
    device_phases_s: dict[str, Amount]
    """The same phases in CUDA-event seconds on the slowest device of the rank; empty on a CPU."""
    communication_s: Amount | None
    """Host seconds of explicit moves between devices (model parallel), else None."""
    loss: float | None
    """This rank's part of the global loss times world size: the mean over ranks is the loss of the
    global batch. None where it was not a finite number, and in a loop of one's own."""
    skipped: bool = False
    """The gradient scaler of fp16 found an overflow and left the parameters as they were."""

    @field_validator("loss")
    @classmethod
    def _finite(cls, loss: float | None) -> float | None:
        # JSON has no nan: a diverged training must still leave a file that can be read.
        return loss if loss is not None and math.isfinite(loss) else None


class Block(Part):
    """Some timed steps in a row of one rank, in one round."""

    round: Count
    """Index of the round, from 0. In each round every cell has one turn."""
    rank: Count
    """Rank that took the steps."""
    wall_s: PositiveAmount
    """Seconds from the barrier before the first step until the last one was done on all devices."""
    turn_cpu_s: Number
    """CPU seconds of the rank's process tree over its whole turn, the untimed lead-in included."""
    steps: Annotated[list[StepSample], Field(min_length=1)]
    """In the order they were taken."""
    energy_j: dict[str, Amount] = Field(default_factory=dict)
    """Joules over ``wall_s`` by counter: "HOST package-0" is a whole CPU package by RAPL, whatever
    ran on it, "GPU-UUID" one of the rank's GPUs by NVML. Those that cannot be read are missing."""
    taken: PositiveCount | None = None
    """Steps that ``wall_s`` covers, where ``steps`` holds only every so many-th of them: a training
    of many epochs."""

    @property
    def step_count(self) -> int:
        """Steps that ``wall_s`` covers."""
        return self.taken or len(self.steps)


class HostLoad(Part):
    """What else rank 0's host did during one turn of one cell."""

    round: Count
    """Index of the round, from 0."""
    foreign_cpu_share: Share | None
    """CPU time of other processes over all CPU time there was, 0..1."""
    pressure_share: Share | None
    """Share of the turn in which some task waited for a CPU (PSI), 0..1; None if not known."""
    steal_share: Share | None
    """CPU time that a hypervisor gave to others over all CPU time there was, 0..1."""


class Cell(Part):
    """One configuration measured: the strategy itself, a baseline, or an ablation."""

    role: Role
    """The strategy asked for, a baseline (serial training) or a variant (another value of one
    option) beside it, or an ablation (a part of it left out)."""
    label: str
    """Name in tables."""
    strategy: str
    """How the training was spread over devices: serial, ddp, model_parallel, ..."""
    ranks: PositiveCount
    """Processes."""
    devices_per_rank: PositiveCount
    """Devices that each process works on."""
    devices: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """Names of the devices of each rank."""
    backend: str | None
    """What carries gradients between ranks: nccl or gloo; None for one rank."""
    threads: PositiveCount
    """CPU threads of each rank."""
    workers: Count
    """Loader worker processes of each rank."""
    preprocess: Preprocess | None = None
    """Where images were preprocessed; None in a loop of one's own and where nobody says."""
    ops: Ops | None = None
    """What was asked to run perfkit's operators; None where images are not preprocessed and the
    model has no SE. ``implementation`` and ``squeeze_excites`` are what ran."""
    implementation: list[str] = Field(default_factory=list)
    """Of each rank: what preprocessed the images of its first step, as in "fused avx512", "fused
    cuda" or "reference", or made the stored set that they are from; empty where nothing did."""
    stored_s: Amount | None = None
    """Seconds, before the first step, in which the stored training set was made; None where it was
    there already or none is used."""
    squeeze_excites: list[dict[str, Count]] = Field(default_factory=list)
    """Of each rank: how many Squeeze-and-Excitation (SE) blocks the forward of the first step ran,
    by what was seen to run them ("fused avx512", "fused cuda", "reference")."""
    precision: Precision | None = None
    """What was asked for; ``product_dtypes`` is what was seen. None in a loop of one's own."""
    product_dtypes: list[dict[str, Count]] = Field(default_factory=list)
    """Of each rank: how many matrix products and convolutions the forward of the first step ran, by
    the dtype of what they multiplied (torch.bfloat16). TF32 counts as torch.float32."""
    tf32: bool | None = None
    """Products and convolutions of float32 ran in TF32; None where the devices have none."""
    local_batch: PositiveCount
    """Samples of a step in each rank."""
    global_batch: PositiveCount
    """Samples of a step over all ranks."""
    ceiling: PositiveAmount
    """The most this strategy can gain over one device, as a factor."""
    time_to_first_step_s: Annotated[list[Amount], Field(min_length=1)]
    """Of each rank: from the start of its process to the end of its first step."""
    warmup_step_s: list[Amount]
    """Step times of rank 0 during warm-up, the first step not among them."""
    observed: list[StageObservation]
    """Of every stage in every rank."""
    placement: list[Count]
    """Index of the device of each stage; empty where the strategy places none."""
    stage_cost_s: list[Amount]
    """Seconds of each stage, forward and backward, by which the stages were placed; or empty."""
    crossings: Count | None
    """Times an activation was seen to change device in one forward; None without stages."""
    blocks: list[Block]
    """Everything that was timed, in the order it was measured."""
    load: list[HostLoad]
    """One for each round."""
    memory: list[Memory]
    """One for each rank; empty until the timed pass is over."""

    @model_validator(mode="after")
    def _blocks_are_of_its_ranks(self) -> Self:
        for block in self.blocks:
            if block.rank >= len(self.devices):
                raise ValueError(f"a block of rank {block.rank}, of {len(self.devices)} rank(s)")
        return self


class DataFacts(Part):
    """What the run trained on."""

    name: str
    """Name of the data set: of its folder and split, or of what makes it."""
    train_samples: Count | None
    """Samples in the training set; None where it does not say."""
    samples_per_epoch: Count | None
    """Samples that one epoch draws; more than there are where a class is drawn repeatedly."""
    class_counts: list[Count]
    """Of the samples of one epoch, by class; empty where the data set has no labels to count."""
    skipped: list[str]
    """Files that could not be read and were left out."""
    split: str = ""
    """How samples came into the training, validation and test sets, where that is known."""
    normalisation: str = ""
    """Mean and standard deviation that images were normalised with, and where these are from."""


def _kind_of_config(config: Any) -> str:
    """Return which of the configs this is, by an option that only it has."""
    options = config if isinstance(config, dict) else getattr(type(config), "model_fields", ())
    return "profile" if "rounds" in options else "train" if "monitor" in options else "session"


class Record(Part):
    """One run of perfkit: its conditions and every sample that was measured. All times in seconds.

    Nothing in it is derived: speeds, gains and intervals follow from the blocks of its cells.
    """

    schema_version: str = SCHEMA_VERSION
    """major.minor: readers refuse a newer major version."""
    name: Annotated[str, Field(pattern=RUN_NAME)]
    """Name of the run folder."""
    created_at: str
    """Start of the run: ISO 8601, UTC."""
    status: Literal["complete", "incomplete"]
    """Incomplete where the run was interrupted: what was measured until then is there."""
    kind: Literal["quick look", "training", "own loop"]
    """A quick look is one process per cell: it does not cover variation between processes. In a
    training a block is an epoch. An own loop is a user's, watched by ``perfkit.session``."""
    scaling: Literal["strong", "weak"]
    """Strong: the global batch is fixed; weak: the batch of each rank is."""
    config: Annotated[
        Annotated[ProfileConfig, Tag("profile")]
        | Annotated[TrainConfig, Tag("train")]
        | Annotated[SessionConfig, Tag("session")],
        Discriminator(_kind_of_config),
    ]
    """As resolved: what the user left open is filled in."""
    environment: Environment
    """Hardware, versions and settings."""
    data: DataFacts
    """The data set."""
    parameters: Count | None
    """Scalars in all parameters of the model; None where an own loop does not tell."""
    new_parameters: list[str] = Field(default_factory=list)
    """Names of parameters that kept their initial values because the file of --weights lacks them;
    empty without such a file."""
    gate: Gate | None
    """What the correctness gate found; None where it would hold serial training in plain torch
    against itself."""
    cells: list[Cell] = Field(min_length=1)
    """The strategy first."""
    traces: Traces | None
    """What was traced after the timed pass; None where no step was traced, or not yet."""
    training: TrainingResult | None = None
    """What the training came to, where this is one."""
    taints: list[str]
    """Whatever makes the numbers doubtful, a sentence each."""


def write_record(record: Record, folder: Path) -> Path:
    """Write ``record.json`` into ``folder``, whole or not at all; OSError where it cannot be."""
    path = folder / RECORD_NAME
    write_versioned(record, path)
    return path


def read_record(path: Path) -> Record:
    """Return the Record in a run folder or file; PerfkitError says what is wrong with it."""
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that no file can have
        raise PerfkitError(
            f"{path}: cannot be read ({error.strerror}); name a run folder"
        ) from None
    file = path / RECORD_NAME if is_folder else path
    if is_folder and not file.exists():
        raise PerfkitError(
            f"{path}: holds no {RECORD_NAME}; it is no run folder, or the run ended before "
            "anything was measured"
        )
    version = (SCHEMA_MAJOR, SCHEMA_MINOR)
    return read_versioned(file, Record, "Record", version, "name a run folder")


def schema_text() -> str:
    """Return the JSON schema of a Record as docs/record.schema.json holds it."""
    return json.dumps(Record.model_json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
