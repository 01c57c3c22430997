"""The site builds, without one dead link."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """Dead links and names that are gone are found here, and the filled-in parts are there."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    pages = {
        "reference/commands": "understudy distill run",
        "operate/alerts": "UnderstudyCertificateRevoked",
        "embed": "link_down",
        "reference/edge": "never_escalate",
        "wire": "PredictBatchRequest",
    }
    for page, word in pages.items():
        assert word in (tmp_path / "site" / page / "index.html").read_text("utf-8"), page


def test_links_between_documents_and_the_repository_lead_somewhere() -> None:
    """Also those that the site turns into plain text, because they leave its folder."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/*.md")]
    links = [(p, t) for p in pages for t in re.findall(r"\]\(([^)\s#]+)", p.read_text("utf-8"))]
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page, target in links
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert len(links) > 50
    assert dead == []
