"""How far tonight's rows have moved from those before: told in the report, judged by nobody.

The live watch in the cloud raises the alarm; the night only says what it saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop import statistics as stats


def drift(
    old: Sequence[str], new: Sequence[str], before: NDArray[np.float32], after: NDArray[np.float32]
) -> dict[str, float]:
    """Movement of classes and of texts; empty when there is nothing to compare.

    Args:
        old: Labels of the rows before.
        new: Labels of tonight's rows.
        before: Sentence vectors of some of the rows before, (N, D).
        after: Of some of tonight's, (M, D).

    Returns:
        `psi`, the population stability index of the classes (above 0.2 is much); `distance`, the
        squared distance of the mean vectors; and `p`, how often chance alone gives as much.
    """
    if not old or not new or not len(before) or not len(after):
        return {}
    names = sorted({*old, *new})
    counts = [Counter(labels) for labels in (old, new)]
    shares = [np.array([float(count[name]) for name in names]) for count in counts]
    distance, p = stats.mean_distance(
        before.astype(np.float64), after.astype(np.float64), draws=100
    )
    return {"psi": stats.psi(shares[0], shares[1]), "distance": distance, "p": p}
