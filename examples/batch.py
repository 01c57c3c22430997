"""A batch job: one text a line in, one JSON answer a line out.

    python examples/batch.py edge.yaml texts.txt answers.jsonl

`predict_many` runs the student over a whole chunk at once and asks the teacher for what is unsure,
all within one budget a chunk. An answer that is degraded can be run again later; its request id
and reason are in the output.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from understudy.edge import Answer, EdgeClient


def chunks(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    while chunk := list(islice(lines, size)):
        yield chunk


def as_line(text: str, answer: Answer) -> str:
    fields = ("label", "confidence", "certified", "degraded", "request_id")
    row = {name: getattr(answer, name) for name in fields}
    return json.dumps({"text": text, **row, "source": answer.source, "reason": answer.reason})


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers a file of texts.")
    parser.add_argument("config", help="edge.yaml, or a bundle's folder")
    parser.add_argument("texts", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--deadline-ms", type=float, default=10_000.0, help="budget of one chunk")
    given = parser.parse_args()

    counts: Counter[str] = Counter()
    with (
        EdgeClient.open(given.config) as client,
        given.texts.open(encoding="utf-8") as texts,
        given.answers.open("w", encoding="utf-8") as out,
    ):
        lines = (line.strip() for line in texts if line.strip())
        for chunk in chunks(lines, given.chunk):
            answers = client.predict_many(chunk, deadline_ms=given.deadline_ms)
            out.writelines(as_line(t, a) + "\n" for t, a in zip(chunk, answers, strict=True))
            counts.update(f"{a.source} ({a.reason})" for a in answers)
        client.flush()
    for who, number in counts.most_common():
        print(f"{number:8d}  {who}")


if __name__ == "__main__":
    main()
