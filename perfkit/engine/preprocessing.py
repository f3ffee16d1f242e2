"""Which preprocessing a run has, and whether the operators that it needs are there."""

from __future__ import annotations

from perfkit.core.config import Preprocess, ProfileConfig, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.ops import native
from perfkit.workloads.base import has_squeeze_excite, load_workload, preprocess_of


def preprocesses(config: RunConfig) -> bool:
    """Whether a resolved config has images preprocessed, wherever that is."""
    return config.preprocess not in {None, "none"}


def settle_preprocess(config: RunConfig, *, on_cuda: bool) -> Preprocess | None:
    """Return where a run preprocesses: as asked for, or as its workload does by itself.

    Raises PerfkitError for what the workload does not take and for an operator that is missing
    here, be it for the images or for the model, also where only a variant beside the run asks for
    it.
    """
    workload = load_workload(config.workload)
    takes = preprocess_of(workload)
    own = config.preprocess or (takes[0] if takes else None)
    in_model = has_squeeze_excite(workload, config)
    beside = config.variants() if isinstance(config, ProfileConfig) else {}
    asked: dict[str, RunConfig] = {f"--preprocess {config.preprocess}": config}
    asked |= {f"--baseline {spec}": changed for spec, changed in beside.items()}
    for option, found in asked.items():
        if found.preprocess is not None and found.preprocess not in takes:
            has = f"takes {', '.join(takes)}" if takes else "has no preprocessing of that kind"
            raise PerfkitError(f"{option}: workload {config.workload} {has}; leave it out")
        settled = found.model_copy(update={"preprocess": found.preprocess or own})
        if preprocesses(settled) or in_model:
            on_device = in_model or settled.preprocess == "device"
            _require_operator(settled, on_cuda=on_cuda and on_device)
        elif found.ops != config.ops:
            raise PerfkitError(
                f"{option}: has no effect where nothing is preprocessed and the model has no "
                "Squeeze-and-Excitation; choose --preprocess loader, device or offline"
            )
    return own


def _require_operator(config: RunConfig, *, on_cuda: bool) -> None:
    if config.ops == "reference":
        return
    try:
        native.load()
        if on_cuda:
            native.require_cuda()
    except PerfkitError as error:
        raise PerfkitError(f"--ops fused: {error}; or use --ops reference") from None
