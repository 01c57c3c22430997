"""Any record survives the spool's bytes, and any `str` survives the client."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulators.bundles import build_bundle
from understudy.edge import EdgeClient
from understudy.edge.spool_codec import RecordCodec
from understudy.edge.text import MAX_CHARACTERS, readable
from understudy.types.convert import record_from_wire, record_to_wire
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LabelScore

UNIT = st.floats(0, 1)
# Every plane, unassigned code points, controls, bidi marks, combining marks, lone surrogates.
ANY_TEXT = st.text(st.characters(codec=None), max_size=300)
CLEAN_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
NUMBER = st.floats(allow_nan=False)

RECORDS = st.builds(
    EscalationRecord,
    event_id=CLEAN_TEXT.filter(bool), task=CLEAN_TEXT, bundle=CLEAN_TEXT, text=CLEAN_TEXT,
    top=st.lists(st.builds(LabelScore, CLEAN_TEXT, UNIT), max_size=5).map(tuple),
    confidence=UNIT, threshold=NUMBER, kind=st.sampled_from(RecordKind), coin=st.booleans(),
    audit_rate=UNIT, propensity=UNIT, created_unix_s=st.floats(-1e12, 1e12), subject=CLEAN_TEXT,
)  # fmt: skip


@given(RECORDS, st.sampled_from([b"", bytes(32)]))
def test_unsealing_is_the_inverse_of_sealing(record: EscalationRecord, key: bytes) -> None:
    """What was spooled is what is sent, infinite thresholds and emoji included."""
    codec = RecordCodec(key)

    assert record == codec.unseal(record.event_id, codec.seal(record))


@given(RECORDS)
def test_a_record_crosses_the_wire_unchanged(record: EscalationRecord) -> None:
    """The log must hold what the edge saw."""
    assert record == record_from_wire(record_to_wire(record))


@given(ANY_TEXT)
def test_readable_text_can_be_encoded_and_is_stable(text: str) -> None:
    """Neither tokenizer nor protobuf may choke, and cleaning twice is cleaning once."""
    clean = readable(text)

    clean.encode()
    assert "\0" not in clean
    assert len(clean) <= MAX_CHARACTERS
    assert clean == readable(clean)


@pytest.fixture(scope="module")
def client() -> EdgeClient:
    directory = Path(tempfile.mkdtemp())
    build_bundle(directory / "b", prototypes=True)
    return EdgeClient.open(directory / "b")


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        ANY_TEXT, st.text(st.sampled_from("card \u0301\u200d\u202e\U0001f600\ud800\U0010ffff"))
    )
)
@example(text="\ud800" * 200)
@example(text="a" * 40_000)
@example(text="\u0958" * 5000)
@example(text="\ufdfa" * 3000)
def test_any_str_gets_an_answer(client: EdgeClient, text: str) -> None:
    """No text that a product can hold may raise, hang or give a number that is none."""
    answer = client.predict(text)

    assert answer.label in {"card", "transfer", "refund"}
    assert all(0.0 <= share <= 1.0 for share in answer.scores.values())
    assert answer.reason in {"confident", "edge_only", "empty_input"}
