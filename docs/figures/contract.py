"""Draws docs/assets/contract.svg: one calibration, from audited rows to a certified threshold.

    python docs/figures/contract.py

The rows are made up and seeded; the bound and the threshold are the product's own.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.stats import beta

from understudy.router.certificate import certify
from understudy.types.contract import Contract

mpl.use("svg")
import matplotlib.pyplot as plt

ROWS = 1200
CONTRACT = Contract(max_quality_loss=0.02, confidence=0.95)
OUT = Path(__file__).resolve().parents[1] / "assets" / "contract.svg"


def main() -> None:
    """Draws the figure."""
    chance = np.random.default_rng(7)
    confidence = chance.beta(4.0, 0.9, ROWS)
    agree = chance.random(ROWS) < 0.45 + 0.55 * confidence**0.6
    found = certify(confidence, agree, CONTRACT)
    grid = np.linspace(0.3, 0.999, 300)
    kept = confidence[None, :] >= grid[:, None]
    errors = (kept & ~agree[None, :]).sum(axis=1)
    bound = beta.ppf(CONTRACT.confidence, errors + 1, ROWS - errors)

    mpl.rcParams |= {"svg.hashsalt": "understudy", "font.size": 10, "axes.spines.top": False}
    figure, (risk, share) = plt.subplots(
        2, 1, figsize=(7.2, 5.2), sharex=True, height_ratios=(2, 1)
    )
    risk.fill_between(grid, errors / ROWS, bound, color="#2458c5", alpha=0.15, linewidth=0)
    risk.plot(grid, errors / ROWS, color="#2458c5", label="seen: kept and different, of all rows")
    risk.plot(grid, bound, color="#2458c5", linestyle="--", label="bound: exact, 95 % confidence")
    risk.axhline(CONTRACT.max_quality_loss, color="#b3261e", linewidth=1.5, label="contract: 2 %")
    share.plot(grid, kept.mean(axis=1), color="#14702f")
    for axes in (risk, share):
        axes.axvline(found.threshold, ymax=0.6, color="#57606a", linewidth=1)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        axes.spines[["right"]].set_visible(False)
    empirical = grid[np.argmax(errors / ROWS <= CONTRACT.max_quality_loss)]
    risk.plot([empirical], [CONTRACT.max_quality_loss], "o", color="#8a5300")
    risk.annotate(
        "what was seen would allow this,\nand break the contract every second time",
        (empirical, CONTRACT.max_quality_loss),
        (0.32, 0.003),
        color="#8a5300",
        arrowprops={"arrowstyle": "-", "color": "#8a5300"},
    )
    risk.annotate(
        f"certified: {found.threshold:.3f}",
        (found.threshold, 0.055),
        (found.threshold - 0.008, 0.055),
        ha="right",
        color="#57606a",
    )
    risk.set(ylabel="joint risk", ylim=(0, 0.115))
    risk.legend(loc="upper right", frameon=False)
    share.set(xlabel="threshold", ylabel="kept on the edge", ylim=(0, 1), xlim=(0.3, 1.0))
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
