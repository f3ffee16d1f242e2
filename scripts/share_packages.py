"""Let an environment of asv use the packages of another: share_packages.py ENVIRONMENT OTHER.

torch and what it needs are gigabytes, and the same for every commit. Of the other's packages those
that are installed in place (an editable perfkit) are not shared: Python reads no .pth file in a
folder that a .pth file names.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def site_packages(environment: Path) -> Path:
    """Return where packages are in a virtual environment."""
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": f"{environment}"}))


def main(environment: Path, other: Path) -> None:
    """Write the .pth file."""
    shared = site_packages(other)
    if not (shared / "torch").is_dir():
        raise SystemExit(f"perfkit: error: {shared} has no torch; run make build")
    (site_packages(environment) / "shared-packages.pth").write_text(f"{shared}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
