"""What does a decision cost? Microseconds of Python, and memory after a million of them.

python bench/policy_decision.py          20,000 decisions a figure
python bench/policy_decision.py --full   1,000,000 decisions for the memory, as reported
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable

import contract_data as data
import numpy as np

from understudy.router.audit import coin
from understudy.router.budget import Governor
from understudy.router.policy import Policy, Score
from understudy.router.score import score
from understudy.types.contract import Calibration

POLICY = Policy(threshold=0.7, audit_rate=0.02, certified=True, audit_key=bytes(range(32)))
CALIBRATION = Calibration(
    score="learned",
    weights={"bias": -1.0, "gap": 0.4, "margin": 1.0, "entropy": -0.5, "similarity": 0.7},
    knots_x=tuple(np.linspace(0.0, 1.0, 60).tolist()),
    knots_y=tuple(np.linspace(0.1, 0.99, 60).tolist()),
)
SCORE = Score(0.8)
GOVERNOR = Governor(0.2)
LOGITS = np.random.default_rng(0).normal(size=77) * 3


def microseconds(work: Callable[[int], object], count: int) -> dict[str, float]:
    """Median and 99th percentile over blocks of 100 calls: a shared machine has other plans too."""
    for n in range(1000):
        work(n)
    blocks = []
    for first in range(0, count, 100):
        start = time.perf_counter()
        for n in range(first, first + 100):
            work(n)
        blocks.append((time.perf_counter() - start) * 1e4)
    return {"median": statistics.median(blocks), "p99": statistics.quantiles(blocks, n=100)[98]}


def growth(count: int) -> int:
    """Bytes held after `count` decisions that were not held after the first thousand."""
    governor = GOVERNOR

    def decide(first: int, last: int, governor: Governor) -> Governor:
        for n in range(first, last):
            found = POLICY.decide(SCORE, str(n), budget_threshold=governor.threshold)
            governor = governor.step(spent=found.audit)
        return governor

    tracemalloc.start()
    governor = decide(0, 1000, governor)
    before = tracemalloc.get_traced_memory()[0]
    decide(1000, count, governor)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


def main() -> None:
    options = data.parser(__doc__ or "").parse_args()
    count = 200_000 if options.full else 20_000
    works: dict[str, Callable[[int], object]] = {
        "audit coin": lambda n: coin(POLICY.audit_key, str(n), 0.02),
        "governor": lambda n: GOVERNOR.step(spent=n % 7 == 0),
        "policy decision (coin included)": lambda n: POLICY.decide(SCORE, str(n)),
        "score of 77 classes": lambda _: score(LOGITS, 0.5, CALIBRATION, classes=77),
        "score and decision": lambda n: POLICY.decide(
            score(LOGITS, 0.5, CALIBRATION, classes=77), str(n)
        ),
    }
    rows = [{"step": name, **microseconds(work, count)} for name, work in works.items()]
    grown = growth(1_000_000 if options.full else 20_000)
    data.table(["step", "median, us", "p99, us"], [list(row.values()) for row in rows])
    print(f"\nmemory after more decisions: {grown:+d} bytes")
    data.write(options.out, {"rows": rows, "growth_bytes": grown})


if __name__ == "__main__":
    main()
