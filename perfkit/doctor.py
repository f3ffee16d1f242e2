"""``perfkit doctor``: what this machine can run, and why not the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict

from perfkit.core import cli
from perfkit.core.errors import PerfkitError


class DoctorFlags(BaseModel):
    """How the answer is printed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    # pydantic's models have a method called json.
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Look at this machine and print what was found."""
    flags = cli.parse(
        DoctorFlags,
        argv,
        prog="perfkit doctor",
        description="Print what this machine can run: GPUs, backends between ranks, precisions, "
        "strategies, native operators, launchers, tracing; and why not the rest.",
    )
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        said = str(error).strip().splitlines()[0]
        raise PerfkitError(f"torch cannot be imported ({said}); install it anew") from None

    from perfkit.measure.capabilities import find_capabilities
    from perfkit.measure.machine import this_machine
    from perfkit.report.doctor import print_capabilities

    found = find_capabilities(this_machine())
    if flags.as_json:
        print(found.model_dump_json(indent=2))
    else:
        print_capabilities(found)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
