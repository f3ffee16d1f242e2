"""Refusing flags that a strategy cannot work with, in one voice."""

from __future__ import annotations

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError


def require(config: RunConfig, option: str, holds: bool, needs: str) -> None:
    """Raise a PerfkitError naming the option and what the strategy needs, unless ``holds``."""
    if not holds:
        raise PerfkitError(
            f"--strategy {config.strategy} needs {needs}, got --{option} {getattr(config, option)}"
        )


def require_no_placement(config: RunConfig) -> None:
    """Raise a PerfkitError if a placement was given to a strategy that places nothing."""
    if config.placement is not None:
        raise PerfkitError(
            f"--placement {config.placement} is for model_parallel and ddp_model_parallel; "
            f"--strategy {config.strategy} keeps the whole model on each device"
        )
