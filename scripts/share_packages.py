"""Let an environment of asv use the packages of another: share_packages.py ENVIRONMENT OTHER.

torch and what it needs are gigabytes, and the same for every commit. Of the other's packages those
that are installed in place (an editable perfkit) are not shared: Python reads no .pth file in a
folder that a .pth file names.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

PTH = "shared-packages.pth"


def site_packages(environment: Path) -> Path:
    """Return where packages are in a virtual environment."""
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": f"{environment}"}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the .pth file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("environment", type=Path)
    parser.add_argument("other", type=Path)
    flags = parser.parse_args(arguments)
    shared = site_packages(flags.other.resolve())
    if not (shared / "torch").is_dir():
        parser.error(f"{shared} has no torch; run make build")
    try:
        (site_packages(flags.environment) / PTH).write_text(f"{shared}\n", encoding="utf-8")
    except OSError as error:
        parser.error(f"{flags.environment}: is no virtual environment ({error.strerror})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
