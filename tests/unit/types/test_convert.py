"""Nouns to the wire and back: nothing is lost, nothing false gets in."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.types import convert
from understudy.types.decision import RecordKind
from understudy.types.errors import (
    AccessError,
    BundleError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    SignatureError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import EscalationRecord, LabelScore, TeacherLabel
from understudy.types.release import Directive, NodeStatus, SliceOrder, UpdateState
from understudy.wire.v1 import fleet_pb2, records_pb2

shares = st.floats(0.0, 1.0)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def records(draw: st.DrawFn) -> EscalationRecord:
    return EscalationRecord(
        event_id=draw(words), task=draw(words), bundle=draw(words), text=draw(words),
        top=tuple(LabelScore(draw(words), draw(shares)) for _ in range(draw(st.integers(0, 3)))),
        confidence=draw(shares), threshold=draw(st.one_of(shares, st.just(math.inf))),
        kind=draw(st.sampled_from(RecordKind)), coin=draw(st.booleans()),
        audit_rate=draw(shares), propensity=draw(shares),
        created_unix_s=draw(st.floats(0, 1e10)), node="n", subject=draw(words),
        slice_name=draw(words),
    )  # fmt: skip


@given(records())
def test_a_record_survives_the_wire(record: EscalationRecord) -> None:
    data = convert.record_to_wire(record).SerializeToString()

    back = convert.record_from_wire(records_pb2.EscalationRecord.FromString(data), node="n")

    assert record == back


def test_the_node_never_travels_in_the_record() -> None:
    assert "node" not in records_pb2.EscalationRecord.DESCRIPTOR.fields_by_name


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=5), shares)
def test_a_teacher_label_survives_the_wire(log_probs: list[float], mass: float) -> None:
    ordered = tuple(sorted(log_probs, reverse=True))
    names = tuple(str(i) for i in range(len(ordered)))
    label = TeacherLabel("t", "h", names, ordered, mass, "because")

    assert label == convert.label_from_wire(convert.label_to_wire(label))
    assert label.label == "0"


def test_status_and_directive_survive_the_wire() -> None:
    status = NodeStatus(task="t", bundle="b", state=UpdateState.PROBATION, requests=5, failure="x")
    directive = Directive(
        bundle="b", certificate_revoked=True, threshold_floor=0.5, audit_rate=0.1,
        revoked_slices=(SliceOrder("legal", math.inf), SliceOrder("billing", 0.9)),
    )  # fmt: skip

    assert status == convert.status_from_wire(convert.status_to_wire(status))
    assert directive == convert.directive_from_wire(convert.directive_to_wire(directive))


def test_a_state_of_a_newer_client_counts_as_idle() -> None:
    message = fleet_pb2.NodeStatus(task="t")
    message.MergeFromString(bytes([4 << 3, 99]))  # field 4, a number nobody knows yet

    assert UpdateState.IDLE == convert.status_from_wire(message).state


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"event_id": ""}, id="no id"),
        pytest.param({"kind": 0}, id="no kind"),
        pytest.param({"confidence": 2.0}, id="confidence"),
        pytest.param({"confidence": math.nan}, id="nan"),
        pytest.param({"propensity": -1.0}, id="propensity"),
        pytest.param({"created_unix_s": math.inf}, id="time"),
        pytest.param({"threshold": math.nan}, id="threshold"),
    ],
)
def test_a_message_that_is_no_record_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"event_id": "e", "kind": 1} | change

    with pytest.raises(InvalidValueError):
        convert.record_from_wire(records_pb2.EscalationRecord(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "label",
    [
        pytest.param({"labels": [], "log_probs": []}, id="empty"),
        pytest.param({"labels": ["a"], "log_probs": [0.0, -1.0]}, id="lengths"),
        pytest.param({"labels": ["a"], "log_probs": [math.nan]}, id="nan"),
        pytest.param({"labels": ["a"], "log_probs": [1.0]}, id="above zero"),
        pytest.param({"labels": ["a", "b"], "log_probs": [-2.0, -1.0]}, id="order"),
        pytest.param({"labels": ["a"], "log_probs": [0.0], "label_mass": 7.0}, id="mass"),
    ],
)
def test_a_message_that_is_no_distribution_is_refused(label: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        convert.label_from_wire(records_pb2.TeacherLabel(**label))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeadlineError("x"), "DEADLINE_EXCEEDED"),
        (OverloadedError("x", 2.0), "RESOURCE_EXHAUSTED"),
        (LinkDownError("x"), "UNAVAILABLE"),
        (AccessError("x"), "PERMISSION_DENIED"),
        (SignatureError("x"), "NOT_FOUND"),
        (InvalidValueError("x"), "INVALID_ARGUMENT"),
        (TeacherError("x"), "INTERNAL"),
        (UnderstudyError("x"), "INTERNAL"),
    ],
)
def test_errors_have_one_status(error: UnderstudyError, status: str) -> None:
    assert status == convert.status_from_error(error)


def test_statuses_have_one_error_and_push_back_travels() -> None:
    overloaded = convert.error_from_status("RESOURCE_EXHAUSTED", "m", 1.5)

    assert isinstance(overloaded, OverloadedError)
    assert 1.5 == overloaded.retry_after_s
    assert isinstance(convert.error_from_status("NOT_FOUND", "m"), BundleError)
    assert isinstance(convert.error_from_status("SOMETHING_NEW", "m"), TeacherError)
