"""What a workload is: the model and everything that trains it."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, get_args

from perfkit.core.config import Preprocess, RunConfig
from perfkit.core.errors import PerfkitError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset

Prepare: TypeAlias = "Callable[[Tensor, Sequence[int] | None], Tensor]"

BUILT_IN = {
    "forensics": "perfkit.workloads.forensics:Forensics",
    "glaucoma": "perfkit.workloads.glaucoma:Glaucoma",
}


class Workload(Protocol):
    """A class with these members can be trained: ``--workload my_package.my_module:MyClass``.

    It is made from the RunConfig, whose ``image_size`` and ``local_batch`` are filled in. It may
    also have

    - ``stages(model) -> list[nn.Module]``: the model cut into modules that are called one after
      the other, which makes model parallel possible; a model that is an nn.Sequential does without;
    - ``schedule(optimizer) -> LRScheduler``: the learning rate, stepped once an epoch;
    - ``clip_norm: float``: the largest norm of all gradients together;
    - ``metrics(outputs, targets) -> dict[str, float]``: what the model is worth on a whole split,
      outputs [N, ...] and targets [N, ...] being joined on the CPU. Without it outputs [N, C] with
      integer targets [N] are those of a classifier, and anything else has its loss alone;
    - ``preprocess_choices: tuple[str, ...]``: the values of ``--preprocess`` that it takes, its own
      first; the one that holds is ``config.preprocess``. Without any the option is refused.
      With "device" among them it has ``prepare(inputs, seeds) -> Tensor``, which is then called
      with collate's inputs on the device of the rank and with the ``seeds`` that collate got; with
      "offline" it has ``stored(split) -> StoredImages``, which its data set then reads;
    - ``implementation: str``: which implementation of ``config.ops`` ran last in this process;
    - ``has_squeeze_excite(config) -> bool``, a class method: whether the model has
      ``perfkit.ops.SqueezeExcite``, made with ``config.ops``. Then ``--baseline ops=reference`` is
      taken, and a missing native operator is refused before anything is loaded.
    """

    def __init__(self, config: RunConfig) -> None: ...

    def model(self) -> nn.Module:
        """Return a new model on the CPU, its weights drawn from torch's generator."""

    def dataset(self, split: str) -> Dataset[Any]:
        """Return the samples of "train", "val" or "test", by index."""

    def collate(self, samples: Sequence[Any], seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets) of some samples.

        ``seeds`` has one seed a sample for what is random in it, and is None where nothing may
        be random (evaluation, correctness gate).
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (losses, weights), both [N]: the loss of a global batch is their weighted mean.

        Means over ranks of weighted means would be wrong, so the weighing is left to the engine.
        """

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimiser of the model's parameters."""


def load_workload(name: str) -> type[Workload]:
    """Return the class of a built-in workload or of ``package.module:Class``."""
    module_name, _, class_name = BUILT_IN.get(name, name).partition(":")
    if not (class_name.isidentifier() and all(map(str.isidentifier, module_name.split(".")))):
        raise PerfkitError(
            f"--workload {name}: no such workload; known are {', '.join(sorted(BUILT_IN))}, or "
            "name a class of yours as my_package.my_module:MyWorkload"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # whatever the user's module does while it is imported
        raise PerfkitError(
            f"--workload {name}: {module_name} cannot be imported ({_told(error)})"
        ) from None
    if not inspect.isclass(found):
        raise PerfkitError(
            f"--workload {name}: {module_name} has no class {class_name}; name one that it has"
        )
    missing = [member for member in _members() if not hasattr(found, member)]
    if missing:
        raise PerfkitError(
            f"--workload {name}: {class_name} lacks {', '.join(missing)}; see "
            "perfkit.workloads.base.Workload"
        )
    return cast(type[Workload], found)


def stages_of(workload: Workload, model: nn.Module) -> list[nn.Module] | None:
    """Return how the workload cuts its model, or None where it does not say."""
    from torch import nn

    cut = getattr(workload, "stages", None)
    if cut is not None:
        return list(cut(model))
    return list(model) if isinstance(model, nn.Sequential) else None


def schedule_of(workload: Workload, optimizer: Optimizer) -> LRScheduler:
    """Return the workload's schedule; without one the learning rate stays as it is."""
    from torch.optim.lr_scheduler import ConstantLR, LRScheduler, ReduceLROnPlateau

    own = getattr(workload, "schedule", None)
    found = ConstantLR(optimizer, factor=1.0) if own is None else own(optimizer)
    if not isinstance(found, LRScheduler) or isinstance(found, ReduceLROnPlateau):
        raise PerfkitError(
            f"the workload's schedule has to return a schedule of torch that is stepped without a "
            f"metric, got {type(found).__name__}"
        )
    return found


def clip_norm_of(workload: Workload) -> float | None:
    """Return the largest norm of all gradients together, or None where they are not clipped."""
    norm: float | None = getattr(workload, "clip_norm", None)
    return norm


def preprocess_of(workload: type[Workload]) -> tuple[Preprocess, ...]:
    """Return the values of ``--preprocess`` that a workload takes, its own first; or none.

    Raises PerfkitError for what is no tuple of names, for a value that does not exist and for one
    whose method the class lacks.
    """
    takes = getattr(workload, "preprocess_choices", ())
    wrong = f"workload {workload.__name__}: its preprocess_choices"
    if not (isinstance(takes, tuple | list) and all(isinstance(value, str) for value in takes)):
        raise PerfkitError(
            f'{wrong} has to be a tuple of names, as in ("loader", "none"), on the class itself'
        )
    needs = {"device": "prepare", "offline": "stored"}
    for value in takes:
        lacks = value in needs and not callable(getattr(workload, needs[value], None))
        if lacks or value not in get_args(Preprocess):
            raise PerfkitError(
                f"{wrong} has {value!r}; it can have none, loader, device (with a method prepare) "
                "and offline (with a method stored)"
            )
    return tuple(takes)


def prepare_of(workload: Workload, config: RunConfig) -> Prepare | None:
    """Return what prepares inputs on the device; None where they come ready from the loader."""
    return cast(Any, workload).prepare if config.preprocess == "device" else None


def implementation_of(workload: Workload) -> str:
    """Return which implementation of its operator ran last; empty where it does not say."""
    told = getattr(workload, "implementation", "")
    return told if isinstance(told, str) else ""  # the name may be taken for something else


def has_squeeze_excite(workload: type[Workload], config: RunConfig) -> bool:
    """Return whether the workload says that the model of a config has Squeeze-and-Excitation."""
    says = getattr(workload, "has_squeeze_excite", None)
    return says is not None and bool(says(config))


def _told(error: Exception) -> str:
    """Return an error as one line, with the place in the user's code that it came from."""
    message = str(error).partition("\n")[0]
    if isinstance(error, ModuleNotFoundError):
        return f"{message}; run where it can be found, or set PYTHONPATH"
    if isinstance(error, ImportError | SyntaxError):  # these name the module, or file and line
        return message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {message}, at {place.filename} line {place.lineno}"


def _members() -> list[str]:
    return ["model", "dataset", "collate", "loss", "optimizer"]
