"""One module a parallel strategy; see ``base.Strategy`` for what such a module holds."""

from __future__ import annotations

from perfkit.core.config import StrategyName
from perfkit.strategies import ddp, ddp_model_parallel, model_parallel, serial
from perfkit.strategies.base import Strategy

STRATEGIES: dict[StrategyName, Strategy] = {
    "serial": serial,
    "ddp": ddp,
    "model_parallel": model_parallel,
    "ddp_model_parallel": ddp_model_parallel,
}
