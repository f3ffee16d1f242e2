"""The cases as asv sees them, which imports everything in this folder, and this folder alone."""

import sys
from pathlib import Path

sys.path.insert(0, f"{Path(__file__).resolve().parents[1]}")
