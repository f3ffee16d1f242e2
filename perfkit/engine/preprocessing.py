"""Which preprocessing a run has, and whether what is to do it is there."""

from __future__ import annotations

from perfkit.core.config import Preprocess, ProfileConfig, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.ops import native
from perfkit.workloads.base import load_workload, preprocess_of


def runs_operator(config: RunConfig) -> bool:
    """Whether a resolved config has images preprocessed, wherever that is."""
    return config.preprocess not in {None, "none"}


def settle_preprocess(config: RunConfig, *, on_cuda: bool) -> Preprocess | None:
    """Return where a run preprocesses: as asked for, or as its workload does by itself.

    Raises PerfkitError for what the workload does not take and for an operator that is missing
    here, also where only a variant beside the run asks for it.
    """
    takes = preprocess_of(load_workload(config.workload))
    own = config.preprocess or (takes[0] if takes else None)
    beside = config.variants() if isinstance(config, ProfileConfig) else {}
    asked: dict[str, RunConfig] = {f"--preprocess {config.preprocess}": config}
    asked |= {f"--baseline {spec}": changed for spec, changed in beside.items()}
    for option, found in asked.items():
        if found.preprocess is not None and found.preprocess not in takes:
            has = f"takes {', '.join(takes)}" if takes else "has no preprocessing of that kind"
            raise PerfkitError(f"{option}: workload {config.workload} {has}; leave it out")
        settled = found.model_copy(update={"preprocess": found.preprocess or own})
        if runs_operator(settled):
            _require_operator(settled, on_cuda=on_cuda)
        elif found.ops != config.ops:
            raise PerfkitError(
                f"{option}: has no effect where nothing is preprocessed; choose --preprocess "
                "loader, device or offline"
            )
    return own


def _require_operator(config: RunConfig, *, on_cuda: bool) -> None:
    if config.ops == "reference":
        return
    try:
        native.load()
        if on_cuda and config.preprocess == "device":
            native.require_cuda()
    except PerfkitError as error:
        raise PerfkitError(f"--ops fused: {error}; or use --ops reference") from None
