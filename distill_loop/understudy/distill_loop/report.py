"""The page of a night: one HTML file with its figures inside, and the same numbers as JSON.

What it shows was measured on rows that judged; nothing is computed from rows that trained.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.gate import Outcome
from understudy.distill_loop.run import NightResult, recorded_night
from understudy.distill_loop.workspace import Workspace
from understudy.files import write_atomic
from understudy.types.errors import ConfigError

Numbers = NDArray[np.float64]
_INK, _OLD, _NEW = "#22333b", "#b08968", "#1d7874"
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22333b;max-width:62rem;margin:2rem auto}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;
border-bottom:1px solid #eee;vertical-align:top}.pass{color:#1d7874}.fail{color:#b00020}
.undecided{color:#b07d00}figure{display:inline-block;margin:.5rem}img{max-width:100%}
.big{font-size:1.3rem}
"""


def write_report(workspace: Workspace, name: str, target: Path) -> Path:
    """Writes the page of a night that has ended, and its numbers beside it.

    Args:
        workspace: Where the night was run.
        name: Its name.
        target: The HTML file to write; the numbers go to the same name with `.json`.

    Raises:
        ConfigError: If no night of that name has ended.
    """
    result = recorded_night(workspace, name)
    if result is None:
        ended = ", ".join(workspace.nights()) or "none"
        raise ConfigError(f"no night '{name}' has ended in {workspace.folder}; ended are: {ended}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, render(result).encode(), mode=0o644)
    recorded = (workspace.folder / "nights" / f"{name}.json").read_bytes()
    write_atomic(target.with_suffix(".json"), recorded, mode=0o644)
    return target


def render(result: NightResult) -> str:
    """The page as text; self-contained."""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{_safe(result.name)}</title>",
        f"<style>{_STYLE}</style><h1>Night {_safe(result.name)}</h1>",
        _summary(result),
        _section("Checks", _checks(result)),
        _section("Figures", "".join(_figures(result.figures.get("judged", {})))),
        _section("What changed", _changes(result.figures.get("changed", ()))),
        _section("Data", _table(("rows", "count"), result.rows.items())),
        _section("What was learned", _learned(result)),
        _section("Time", _table(("stage", "seconds"), _rounded(result.seconds))),
    ]
    return "\n".join(parts)


def _summary(result: NightResult) -> str:
    fate = {
        "promote": "The challenger ships.",
        "keep": "The champion stays.",
        "undecided": "Undecided: the champion stays.",
    }[result.ruling]
    renewed = " Its certificate was renewed." if result.renewed else ""
    reasons = "".join(f"<li>{_safe(reason)}</li>" for reason in result.reasons)
    proved = (
        f"Certified: keeps {result.keep_rate:.1%} of the requests at threshold "
        f"{result.threshold:.3f}."
        if result.certified
        else f"Not certified: {result.rows_missing} more audited rows are needed."
    )
    news = f"<p>New classes: {_safe(', '.join(result.new_labels))}</p>" if result.new_labels else ""
    return f"<p class=big>{fate}{renewed} {proved}</p><ul>{reasons}</ul>{news}"


def _checks(result: NightResult) -> str:
    rows = (
        f"<tr><td class={c.outcome}>{c.outcome}</td><td>{_safe(c.name)}</td>"
        f"<td>{_number(c.value)}</td><td>{_number(c.limit)}</td><td>{_safe(c.says)}</td></tr>"
        for c in sorted(result.checks, key=lambda c: c.outcome is Outcome.PASS)
    )
    head = "<tr><th>outcome<th>check<th>value<th>limit<th>in words</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _figures(judged: Mapping[str, Any]) -> list[str]:
    """Calibration, risk against escalation, and slices; nothing when no row judged."""
    if not judged or not judged.get("new_right"):
        return ["<p>No rows judged.</p>"]
    arrays = {
        who: (
            np.asarray(judged[f"{who}_confidence"], np.float64),
            np.asarray(judged[f"{who}_right"], np.float64),
        )
        for who in ("old", "new")
        if judged.get(f"{who}_right")
    }
    drawn = [
        _draw("Calibration: what confidence is worth", lambda axes: _calibration(axes, arrays)),
        _draw("Risk against escalation", lambda axes: _risk(axes, arrays)),
    ]
    if judged.get("slices"):
        drawn.append(_draw("Accuracy by slice", lambda axes: _slices(axes, judged["slices"])))
    return drawn


def _calibration(axes: Any, arrays: Mapping[str, tuple[Numbers, Numbers]]) -> None:  # noqa: ANN401 - matplotlib
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    for who, (confidence, right) in arrays.items():
        usable = confidence >= 0
        order = np.argsort(confidence[usable], kind="stable")
        bins = np.array_split(order, max(min(10, len(order) // 10), 1))
        x = [float(confidence[usable][b].mean()) for b in bins if len(b)]
        y = [float(right[usable][b].mean()) for b in bins if len(b)]
        axes.plot(x, y, marker="o", color=_colour(who), label=_name(who))
    axes.set(xlabel="confidence", ylabel="share that agrees with the teacher")
    axes.legend(frameon=False)


def _risk(axes: Any, arrays: Mapping[str, tuple[Numbers, Numbers]]) -> None:  # noqa: ANN401 - matplotlib
    for who, (confidence, right) in arrays.items():
        order = np.argsort(-confidence, kind="stable")
        kept = np.arange(1, len(order) + 1) / len(order)
        wrong = np.cumsum(1.0 - right[order]) / len(order)
        axes.plot(1.0 - kept, wrong, color=_colour(who), label=_name(who))
    axes.set(xlabel="share escalated", ylabel="joint risk: kept and different")
    axes.legend(frameon=False)


def _slices(axes: Any, slices: Mapping[str, Sequence[float]]) -> None:  # noqa: ANN401 - matplotlib
    worst = sorted(slices.items(), key=lambda item: item[1][1])[:15]
    places = np.arange(len(worst))
    axes.barh(places, [values[1] for _, values in worst], color=_NEW, height=0.6)
    axes.plot([values[0] for _, values in worst], places, "|", color=_OLD, markersize=12)
    axes.set_yticks(places, [f"{name} ({int(values[2])})" for name, values in worst], fontsize=7)
    axes.set(xlabel="accuracy; the mark is the champion's", xlim=(0, 1))


def _draw(title: str, paint: Callable[[Any], None]) -> str:
    """One figure as an embedded picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    paint(axes)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img alt="{_safe(title)}" src="data:image/png;base64,{data}"></figure>'


def _changes(changed: Sequence[Mapping[str, str]]) -> str:
    if not changed:
        return "<p>No answer changed on the rows that judged.</p>"
    rows = (
        tuple(str(row[k]) for k in ("text", "teacher", "champion", "challenger")) for row in changed
    )
    return _table(("text", "teacher", "champion", "challenger"), rows)


def _learned(result: NightResult) -> str:
    losses = result.figures.get("losses", {})
    share = result.figures.get("gradient_share", {})
    rows = [(k, f"{v:.4f}", f"{share.get(k, 0.0):.1%}") for k, v in losses.items()]
    calls = f"<p>Teacher answers asked tonight: {result.teacher_calls}</p>"
    return calls + _table(("term", "last epoch", "share of the gradient"), rows)


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


def _table(head: Sequence[str], rows: Any) -> str:  # noqa: ANN401 - any rows of cells
    top = "".join(f"<th>{_safe(name)}" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_safe(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _rounded(seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name, f"{value:.1f}") for name, value in seconds.items()]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _colour(who: str) -> str:
    return _NEW if who == "new" else _OLD


def _name(who: str) -> str:
    return "challenger" if who == "new" else "champion"


def _safe(text: str) -> str:
    return html.escape(text)
