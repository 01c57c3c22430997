"""Does any text break the client? Coverage-guided fuzzing of the way from text to answer.

    pip install -e '.[fuzz]'
    python bench/edge_fuzz.py                       20,000 inputs
    python bench/edge_fuzz.py --full                2,000,000 inputs
    python bench/edge_fuzz.py --bundle DIR -- -max_total_time=600    libFuzzer's own options

Every input becomes texts of all planes, lone surrogates included, and goes through `predict`, the
redaction, the spool's bytes and the wire. What raises is a finding; the input lies in
`crash-<digest>` then. `tests/property/test_spool_records.py` holds the same rules in the tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["understudy"], enable_loader_override=False):
    import understudy.edge.opening  # noqa: F401 - else it is loaded later, without instruments
    from understudy.edge import EdgeClient
    from understudy.edge.config import Redaction
    from understudy.edge.privacy import redact
    from understudy.edge.spool_codec import RecordCodec
    from understudy.types.convert import record_from_wire, record_to_wire
    from understudy.types.decision import RecordKind
    from understudy.types.records import EscalationRecord, LabelScore

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from simulators.bundles import build_bundle

PLANES = 0x110000


def text_of(data: atheris.FuzzedDataProvider) -> str:
    """Text that libFuzzer knows how to shape, or code points drawn over every plane."""
    if data.ConsumeBool():
        return str(data.ConsumeUnicode(data.ConsumeIntInRange(0, 4096)))
    points = data.ConsumeIntListInRange(data.ConsumeIntInRange(0, 512), 0, PLANES - 1)
    return "".join(map(chr, points)) * data.ConsumeIntInRange(1, 64)


def check(client: EdgeClient, text: str) -> None:
    answer = client.predict(text)
    assert 0.0 <= answer.confidence <= 1.0
    assert all(0.0 <= share <= 1.0 for share in answer.scores.values())
    assert answer.latency_ms < 5_000
    for preset in Redaction:
        redact(text, preset)
    clean = text.encode("utf-8", "replace").decode()
    record = EscalationRecord(
        answer.request_id, "fuzz", answer.bundle, clean, (LabelScore(answer.label, 0.5),),
        answer.confidence, 1.0, RecordKind.DEGRADED, coin=False, audit_rate=0.1, propensity=1.0,
        created_unix_s=1.0, subject=clean[:40],
    )  # fmt: skip
    for key in (b"", bytes(32)):
        codec = RecordCodec(key)
        assert record == codec.unseal(record.event_id, codec.seal(record))
    assert record == record_from_wire(record_to_wire(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="a student's directory; a tiny one is made when omitted")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--full", action="store_true", help="a hundred times the inputs")
    args, rest = parser.parse_known_args()
    folder = Path(args.bundle or tempfile.mkdtemp())
    if not args.bundle:
        build_bundle(folder, prototypes=True)
    client = EdgeClient.open(folder)
    runs = args.runs * (100 if args.full else 1)
    options = [o for o in rest if o != "--"]
    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", "-timeout=10", "-max_len=8192", "-len_control=0", *options],
        lambda data: check(client, text_of(atheris.FuzzedDataProvider(data))),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
