"""Fixtures every room shares: where data lies, and what is expensive to start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; the test skips, saying so, where it is absent."""
    folder = Path(os.environ.get("UNDERSTUDY_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"public data sets are not at {folder}; set UNDERSTUDY_DATA")
    return folder
