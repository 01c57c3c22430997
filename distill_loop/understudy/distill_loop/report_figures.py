"""The figures of a night's page, drawn from rows that judged, as pictures inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Sheets = Mapping[str, tuple[Numbers, Numbers]]
"""Confidence and right or wrong, (N,) each, of `old` and `new`."""
INK, OLD, NEW, BAD, FAINT = "#22333b", "#b08968", "#1d7874", "#b3402e", "#d8d3cb"
_NAMES = {"old": "champion", "new": "challenger"}
_COLOURS = {"old": OLD, "new": NEW}
MAX_SLICES = 14


def figures(judged: Mapping[str, Any], facts: Mapping[str, float | None]) -> list[str]:
    """Every figure that the rows that judged allow; none when no row judged.

    Args:
        judged: Confidences, right or wrong, and slices, as `evaluation.pictures` leaves them.
        facts: `threshold` of the bundle to use and `risk` the contract allows; None for unknown.
    """
    sheets = {
        who: (
            np.asarray(judged[f"{who}_confidence"], np.float64),
            np.asarray(judged[f"{who}_right"], np.float64),
        )
        for who in ("old", "new")
        if judged.get(f"{who}_right")
    }
    if "new" not in sheets:
        return []
    drawn = [
        _draw("What a confidence is worth", lambda axes: _calibration(axes, sheets)),
        _draw("Risk against escalation", lambda axes: _risk(axes, sheets, facts)),
    ]
    if "old" in sheets:
        drawn.append(_draw("What broke and what was repaired", lambda axes: _flips(axes, sheets)))
    if judged.get("slices"):
        drawn.append(_draw("Where it changed most", lambda axes: _slices(axes, judged["slices"])))
    return drawn


def _calibration(axes: Any, sheets: Sheets) -> None:  # noqa: ANN401 - matplotlib
    """Share right by confidence, in groups of like size, with the spread that chance gives."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, zorder=0)
    for who, (confidence, right) in sheets.items():
        usable = confidence >= 0
        order = np.argsort(confidence[usable], kind="stable")
        groups = [g for g in np.array_split(order, max(min(10, len(order) // 10), 1)) if len(g)]
        x = np.array([float(confidence[usable][g].mean()) for g in groups])
        y = np.array([float(right[usable][g].mean()) for g in groups])
        size = np.array([len(g) for g in groups])
        spread = np.sqrt(np.clip(y * (1 - y), 0.0, None) / np.maximum(size, 1))
        axes.errorbar(
            x, y, spread, marker="o", markersize=4, linewidth=1.4, capsize=0,
            color=_COLOURS[who], label=_NAMES[who],
        )  # fmt: skip
    axes.set(xlabel="confidence", ylabel="share that agrees with the teacher", ylim=(-0.02, 1.03))
    axes.legend(frameon=False, loc="lower right")


def _risk(axes: Any, sheets: Sheets, facts: Mapping[str, float | None]) -> None:  # noqa: ANN401 - matplotlib
    """Joint risk for every share escalated; the contract's line, and where the bundle stands."""
    for who, (confidence, right) in sheets.items():
        order = np.argsort(-confidence, kind="stable")
        kept = np.arange(len(order) + 1) / len(order)
        wrong = np.concatenate([[0.0], np.cumsum(1.0 - right[order])]) / len(order)
        axes.plot(1.0 - kept, wrong, color=_COLOURS[who], label=_NAMES[who], linewidth=1.6)
    allowed, threshold = facts.get("risk"), facts.get("threshold")
    if allowed:
        axes.axhline(allowed, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            1.0,
            allowed,
            " what the contract allows",
            color=BAD,
            ha="right",
            va="bottom",
            fontsize=8,
        )
    if threshold is not None and np.isfinite(threshold):
        confidence, right = sheets["new"]
        keeps = confidence >= threshold
        place = (1.0 - float(keeps.mean()), float((keeps & (right < 1)).mean()))
        axes.plot(*place, "o", markersize=8, markerfacecolor="none", color=INK)
        axes.annotate("its threshold", place, (6, 8), textcoords="offset points", fontsize=8)
    axes.set(xlabel="share escalated", ylabel="joint risk: kept and different", xlim=(0, 1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False)


def _flips(axes: Any, sheets: Sheets) -> None:  # noqa: ANN401 - matplotlib
    """Rows by what champion and challenger said: right and right, repaired, broken, both wrong."""
    old, new = (sheets[who][1] > 0 for who in ("old", "new"))
    counts = {
        "both wrong": (int((~old & ~new).sum()), FAINT),
        "broken": (int((old & ~new).sum()), BAD),
        "repaired": (int((~old & new).sum()), NEW),
        "both right": (int((old & new).sum()), "#cfe3e1"),
    }
    names = list(counts)
    axes.barh(names, [counts[n][0] for n in names], color=[counts[n][1] for n in names], height=0.6)
    for place, name in enumerate(names):
        share = counts[name][0] / max(len(old), 1)
        axes.text(
            counts[name][0], place, f"  {counts[name][0]}  ({share:.1%})", va="center", fontsize=9
        )
    axes.set(xlabel=f"of {len(old)} rows that judged")
    axes.margins(x=0.3)


def _slices(axes: Any, slices: Mapping[str, Sequence[float]]) -> None:  # noqa: ANN401 - matplotlib
    """Champion and challenger in the slices that changed most, losses on top."""
    changed = sorted(slices.items(), key=lambda item: item[1][1] - item[1][0])
    half = MAX_SLICES // 2
    shown = changed if len(changed) <= MAX_SLICES else [*changed[:half], *changed[-half:]]
    shown = [item for item in shown if item[1][0] != item[1][1]] or shown
    for place, (_, (before, after, _)) in enumerate(reversed(shown)):
        colour = NEW if after >= before else BAD
        axes.plot([before, after], [place, place], color=colour, linewidth=2, zorder=1)
        axes.plot(before, place, "o", color=OLD, markersize=5, zorder=2)
        axes.plot(after, place, "o", color=colour, markersize=6, zorder=3)
    labels = [f"{name.replace('_', ' ')} ({int(values[2])})" for name, values in reversed(shown)]
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.set(xlabel="accuracy; brown was the champion")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _draw(title: str, paint: Callable[[Any], None]) -> str:
    """One figure as an embedded picture, twice as fine as a screen needs."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.edgecolor": FAINT, "axes.labelcolor": INK}):
        figure = Figure(figsize=(5.4, 3.7), layout="constrained", dpi=160)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, color=INK, loc="left", pad=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, length=3)
        paint(axes)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></figure>'
