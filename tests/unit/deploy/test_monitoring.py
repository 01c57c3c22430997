"""Alerts and dashboards: every number in them exists, every alert has a page.

`python deploy/check.py` runs the rules' own tests with promtool.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from understudy.cloud.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "understudy.rules.yaml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "understudy.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = QUERIES + [rule["expr"] for group in GROUPS for rule in group["rules"]]


def _measured() -> set[str]:
    """Names of the series that the gateway exposes."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {
        metric.name + suffix
        for metric in Metrics().registry.collect()
        for suffix in suffixes[metric.type]
    }


def test_alerts_and_panels_ask_for_series_that_exist() -> None:
    """A query for a series that is not there is green for ever."""
    asked = {name for e in EXPRESSIONS for name in re.findall(r"\bunderstudy[_:]\w[\w:]*", e)}

    assert asked - _measured() - RECORDED == set()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: a["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    """Whoever is woken needs a page, not a graph."""
    page = ROOT / alert["annotations"]["runbook"]

    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert page.stem == alert["alert"]
    text = page.read_text()
    for heading in ("## What it means", "## What users see", "## Look", "## Do"):
        assert heading in text


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    """A page for nothing misleads the search."""
    pages = {p.stem for p in (ROOT / "docs" / "operate" / "alerts").glob("Understudy*.md")}

    assert pages == {alert["alert"] for alert in ALERTS}


def test_panels_do_not_overlap() -> None:
    """Grafana moves them, and nobody finds the number where it was."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }

        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_chart_carries_the_same_rules_and_dashboard() -> None:
    """A chart can only read its own folder; copies must not drift apart."""
    files = ROOT / "deploy" / "helm" / "understudy" / "files"

    assert RULES.read_text() == (files / RULES.name).read_text()
    assert DASHBOARD == json.loads((files / "understudy.json").read_text())
