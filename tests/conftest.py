"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real data sets that PERFKIT_DATA names."""
    named = os.environ.get("PERFKIT_DATA")
    if not named:
        pytest.skip("PERFKIT_DATA does not name a folder of real data")
    return Path(named)
