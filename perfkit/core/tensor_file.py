"""Reading files of tensors that somebody else may have written."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

from perfkit.core.errors import PerfkitError


def read_tensors(path: Path) -> Any:
    """Return what torch.save wrote, on the CPU; only tensors, plain values and containers.

    A pickle may run any code when it is loaded; torch's restricted unpickler refuses everything
    else. Raises PerfkitError where it does, and for a file that is missing or damaged.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says more than what torch makes of a pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise PerfkitError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if "WeightsUnpickler" in str(error) or "weights_only" in str(error):
            raise PerfkitError(
                f"{path}: holds more than tensors and plain values, or something else; loading it "
                "could run foreign code, so it was not loaded; save a model's state_dict() alone"
            ) from None
        raise PerfkitError(f"{path}: is no file of tensors ({_first_line(error)})") from None
    except Exception as error:  # torch stumbles over damaged bytes in a dozen ways
        raise PerfkitError(
            f"{path}: is damaged or no file of tensors ({_first_line(error)})"
        ) from None


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.partition(". ")[0].strip()
