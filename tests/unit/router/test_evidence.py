"""Rows that no policy writes prove nothing."""

from __future__ import annotations

import pytest

from understudy.router.evidence import is_consistent
from understudy.types.decision import RecordKind
from unit.router.rows import row


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({}, True, id="audit"),
        pytest.param({"confidence": 0.1}, True, id="escalation"),
        pytest.param({"kind": RecordKind.DEGRADED}, True, id="degraded"),
        pytest.param({"confidence": 0.1, "propensity": 0.3}, False, id="cheap-escalation"),
        pytest.param({"coin": False}, False, id="audit-without-coin"),
        pytest.param({"propensity": 0.9}, False, id="audit-at-another-rate"),
        pytest.param({"rate": 0.0}, False, id="audit-at-no-rate"),
        pytest.param(
            {"confidence": 0.1, "kind": RecordKind.AUDIT}, False, id="audit-under-the-threshold"
        ),
    ],
)
def test_rows_no_policy_writes_are_recognised(changes: dict[str, object], wanted: bool) -> None:
    assert wanted == is_consistent(row(**changes).record)  # type: ignore[arg-type]
