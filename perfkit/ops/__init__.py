"""Image and network operators: the Python face and a pure-torch reference of each.

Names are imported when they are first used, so that the NumPy entries bring no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.ops.clahe_numpy import clahe_gamma_median_numpy
    from perfkit.ops.clahe_torch import clahe_gamma_median, clahe_gamma_median_normalize
    from perfkit.ops.native import build_info
    from perfkit.ops.squeeze_excite_module import SqueezeExcite
    from perfkit.ops.squeeze_excite_torch import squeeze_excite

__all__ = [
    "SqueezeExcite",
    "build_info",
    "clahe_gamma_median",
    "clahe_gamma_median_normalize",
    "clahe_gamma_median_numpy",
    "squeeze_excite",
]

# No module may bear the name of a function: its import would take the function's place here.
_HOMES = {
    "SqueezeExcite": "squeeze_excite_module",
    "build_info": "native",
    "clahe_gamma_median": "clahe_torch",
    "clahe_gamma_median_normalize": "clahe_torch",
    "clahe_gamma_median_numpy": "clahe_numpy",
    "squeeze_excite": "squeeze_excite_torch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
