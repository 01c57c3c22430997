"""Old clients against this gateway and back: recorded messages, and no change that breaks them.

`wire_records/*.bin` were written by version 0.1.0 and are never written again; `fields.json` is the
wire as published. To add a field: add it, run this file with UNDERSTUDY_RECORD=1, commit the change
of `fields.json`. A change of what was there already cannot be recorded away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

from simulators.cloud_gateway import LABELS, TASK, Cloud, config, running_cloud
from understudy.wire.v1 import (
    artifact_pb2,
    enrollment_pb2,
    feedback_pb2,
    fleet_pb2,
    inference_pb2,
    records_pb2,
)

RECORDS = Path(__file__).parent / "wire_records"
FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        artifact_pb2,
        enrollment_pb2,
        feedback_pb2,
        fleet_pb2,
        inference_pb2,
        records_pb2,
    )
)
INFERENCE = "/understudy.wire.v1.InferenceService/"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(config(tmp_path_factory.mktemp("cloud"))) as running:
        yield running


def call(cloud: Cloud, method: str, data: bytes) -> bytes:
    """Bytes as an old client put them on the wire, without any code of this version."""
    with cloud.badge().channel(cloud.address) as channel:
        method_call: Any = channel.unary_unary(method)
        return bytes(method_call(data, timeout=10))


def recorded(name: str, made: Message) -> bytes:
    """The bytes of 0.1.0."""
    path = RECORDS / f"{name}.bin"
    if os.environ.get("UNDERSTUDY_RECORD") and not path.exists():
        path.write_bytes(made.SerializeToString(deterministic=True))
    return path.read_bytes()


def old_record(event_id: str) -> records_pb2.EscalationRecord:
    return records_pb2.EscalationRecord(
        event_id=event_id,
        task=TASK,
        bundle="b" * 64,
        text="the machine swallowed my card",
        top=[records_pb2.LabelScore(label=LABELS[1], score=0.625)],
        confidence=0.625,
        threshold=float("inf"),
        kind=records_pb2.RECORD_KIND_ESCALATION,
        coin=True,
        audit_rate=0.02,
        propensity=1.0,
        created_unix_s=1_780_000_000.0,
        subject="person-1",
    )


def test_an_old_clients_question_is_answered(cloud: Cloud) -> None:
    """A device in a cellar runs last year's client."""
    made = inference_pb2.PredictRequest(record=old_record("019e0000-0000-7000-8000-000000000001"))
    data = recorded("predict_request", made)

    answer = inference_pb2.PredictResponse.FromString(call(cloud, INFERENCE + "Predict", data))

    row = cloud.gateway.parts.log.find("019e0000-0000-7000-8000-000000000001", "kiosk-1")
    assert row is not None
    assert LABELS[0] == answer.label.labels[0]
    assert ("the machine swallowed my card", float("inf"), "person-1") == (
        row.record.text,
        row.record.threshold,
        row.record.subject,
    )


def test_an_old_clients_spool_is_taken(cloud: Cloud) -> None:
    """It may have waited there for a week."""
    made = feedback_pb2.ReportEscalationsRequest(
        records=[old_record("019e0000-0000-7000-8000-000000000002")]
    )
    data = recorded("report_request", made)

    reply = call(cloud, "/understudy.wire.v1.FeedbackService/ReportEscalations", data)

    (receipt,) = feedback_pb2.ReportEscalationsResponse.FromString(reply).receipts
    assert feedback_pb2.RECORD_OUTCOME_STORED == receipt.outcome


def test_an_old_clients_check_in_is_heard(cloud: Cloud) -> None:
    """Only who checks in can be updated."""
    status = fleet_pb2.NodeStatus(task=TASK, bundle="b" * 64, channel="stable", requests=7)
    data = recorded("check_in_request", fleet_pb2.CheckInRequest(status=status))

    reply = call(cloud, "/understudy.wire.v1.FleetService/CheckIn", data)

    assert fleet_pb2.CheckInResponse.FromString(reply).directive.next_check_in_s > 0


def test_a_client_of_tomorrow_is_answered(cloud: Cloud) -> None:
    """Fields this version does not know are skipped, as the wire promises."""
    old = inference_pb2.PredictRequest(record=old_record("019e0000-0000-7000-8000-000000000003"))
    unknown = b"\xf2\x3f\x05hello"  # field 1022, bytes

    reply = call(cloud, INFERENCE + "Predict", old.SerializeToString() + unknown)

    assert LABELS[0] == inference_pb2.PredictResponse.FromString(reply).label.labels[0]


@pytest.mark.parametrize(
    ("name", "kind", "made"),
    [
        pytest.param(
            "predict_response",
            inference_pb2.PredictResponse,
            inference_pb2.PredictResponse(
                label=records_pb2.TeacherLabel(
                    teacher="t",
                    prompt_hash="p",
                    labels=["a", "b"],
                    log_probs=[-0.5, -1.0],
                    label_mass=1.0,
                ),
                cached=True,
            ),
            id="answer",
        ),
        pytest.param(
            "check_in_response",
            fleet_pb2.CheckInResponse,
            fleet_pb2.CheckInResponse(
                directive=fleet_pb2.Directive(
                    bundle="b" * 64,
                    target="bundles/support/x/manifest.json",
                    certificate_revoked=True,
                    threshold_floor=0.9,
                    audit_rate=0.1,
                    next_check_in_s=60.0,
                )
            ),
            id="directive",
        ),
    ],
)
def test_this_client_understands_an_old_gateway(
    name: str, kind: type[Message], made: Message
) -> None:
    """Nodes may be updated before their cloud is."""
    assert made == kind.FromString(recorded(name, made))


def test_no_published_field_changed() -> None:
    """What is on the wire keeps its number, type and meaning; it may only grow."""
    path, now = RECORDS / "fields.json", wire_fields()
    published: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if os.environ.get("UNDERSTUDY_RECORD"):
        published = now | published  # only what is new is recorded
        path.write_text(json.dumps(published, indent=1, sort_keys=True) + "\n")

    assert {} == {k: (v, now.get(k)) for k, v in published.items() if now.get(k) != v}
    assert set() == set(now) - set(published), "new on the wire: record it, see above"


def test_a_change_that_breaks_is_seen() -> None:
    """The guard above is of use only if it bites: a renumbered field is another line."""
    now = wire_fields()

    key = "understudy.wire.v1.EscalationRecord.4"
    assert "string text optional" == now[key]
    assert now[key] != now["understudy.wire.v1.EscalationRecord.5"]


def wire_fields() -> dict[str, str]:
    """Every method, field and enum value of the wire, by its number."""
    found: dict[str, str] = {}
    for file in FILES:
        for message in file.message_types_by_name.values():
            _add_message(found, message)
        for enum in file.enum_types_by_name.values():
            _add_enum(found, enum)
        for service in file.services_by_name.values():
            for method in service.methods:
                found[method.full_name] = (
                    f"{method.input_type.full_name} -> {method.output_type.full_name}"
                    f"{' stream' if method.server_streaming else ''}"
                )
    return found


def _add_message(found: dict[str, str], message: Descriptor) -> None:
    names = {v: k for k, v in vars(FieldDescriptor).items() if k.startswith("TYPE_")}
    for field in message.fields:
        kind = names[field.type].removeprefix("TYPE_").lower()
        of = field.message_type or field.enum_type
        many = "repeated" if field.is_repeated else "optional"
        described = f"{of.full_name if of else kind} {field.name} {many}"
        found[f"{message.full_name}.{field.number}"] = described
    for inner in message.nested_types:
        _add_message(found, inner)
    for enum in message.enum_types:
        _add_enum(found, enum)


def _add_enum(found: dict[str, str], enum: EnumDescriptor) -> None:
    for value in enum.values:
        found[f"{enum.full_name}.{value.number}"] = value.name


def test_the_recorded_bytes_are_small_and_complete() -> None:
    """They are evidence of a past version, not a data set."""
    files = sorted(path.name for path in RECORDS.iterdir())

    assert [
        "check_in_request.bin",
        "check_in_response.bin",
        "fields.json",
        "predict_request.bin",
        "predict_response.bin",
        "report_request.bin",
    ] == files
    assert all(path.stat().st_size < 1000 for path in RECORDS.glob("*.bin"))
