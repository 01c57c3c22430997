"""The page of a night: one HTML file with its figures inside, and the same numbers as JSON.

What it shows was measured on rows that judged; nothing is computed from rows that trained, but for
the samples of what was learned, which say so.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.distill_loop.evidence import Check, Outcome
from understudy.distill_loop.report_figures import figures
from understudy.distill_loop.report_style import STYLE
from understudy.distill_loop.run import NightResult, recorded_night
from understudy.distill_loop.workspace import Workspace
from understudy.files import write_atomic
from understudy.types.errors import ConfigError

_ORDER = {Outcome.FAIL: 0, Outcome.UNDECIDED: 1, Outcome.PASS: 2}
_SHARES = {
    "non_inferior",
    "gold",
    "negative_flips",
    "coverage",
    "slices",
    "triggers",
    "compression",
}
_SIGNED = {"non_inferior", "gold"}


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
    found = result.figures
    facts = {"threshold": result.threshold, "risk": found.get("risk_allowed")}
    drawn = figures(found.get("judged", {}), facts) or ["<p>No rows judged.</p>"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>Night {_safe(result.name)}</title><style>{STYLE}</style>",
        _headline(result),
        _section("Figures", f"<div class=figures>{''.join(drawn)}</div>"),
        _section("What the gate looked at", _checks(result.checks)),
        _section("What was learned", _learned(result)),
        _section("Answers that changed", _changes(found.get("changed", ()))),
        _section("Rows", _rows(result)),
        _section("What it took", _cost(result)),
        f"<footer>{_origin(result)}</footer></html>",
    ]
    return "\n".join(parts)


def _headline(result: NightResult) -> str:
    fate = {
        "promote": "The challenger ships.",
        "keep": "The champion stays.",
        "undecided": "Undecided: the champion stays.",
    }[result.ruling]
    renewed = " Its certificate was renewed." if result.renewed else ""
    reasons = "".join(f"<li>{_safe(reason)}</li>" for reason in result.reasons)
    why = f"<ul class=reasons>{reasons}</ul>" if reasons else ""
    return (
        f"<header class={result.ruling}><p class=night>Night {_safe(result.name)}</p>"
        f"<h1>{fate}{renewed}</h1><p>{_safe(_proved(result))}</p>{why}</header>"
        f"<div class=tiles>{''.join(_tiles(result))}</div>"
    )


def _proved(result: NightResult) -> str:
    if not result.certified:
        return f"Not certified: {result.rows_missing} more audited rows are needed."
    risk = result.figures.get("risk_upper_bound")
    bound = f" Joint risk at most {risk:.2%}." if risk is not None else ""
    return (
        f"Certified: keeps {result.keep_rate:.1%} of the requests at threshold "
        f"{result.threshold:.3f}.{bound}"
    )


def _tiles(result: NightResult) -> list[str]:
    """The few numbers that people look for first."""
    accuracy = result.figures.get("accuracy", {})
    tiles = []
    if "new" in accuracy:
        before = f"champion {accuracy['old']:.1%}" if "old" in accuracy else "first student"
        tiles.append(_tile("accuracy against the teacher", f"{accuracy['new']:.1%}", before))
    by_name = {check.name: check for check in result.checks}
    for name, title in (("coverage", "answered by itself"), ("negative_flips", "answers broken")):
        check = by_name.get(name)
        if check is not None and not math.isnan(check.value):
            tiles.append(_tile(title, f"{check.value:.1%}", _interval(check)))
    size = by_name.get("size")
    if size is not None:
        tiles.append(_tile("encoder", f"{size.value / 1e6:.1f} MB", ""))
    tiles.append(_tile("asked of the teacher", str(result.teacher_calls), "answers tonight"))
    tiles.append(_tile("took", _minutes(sum(result.seconds.values())), ""))
    return tiles


def _tile(title: str, value: str, below: str) -> str:
    return f"<div class=tile><span>{_safe(title)}</span><b>{value}</b><i>{_safe(below)}</i></div>"


def _checks(checks: Sequence[Check]) -> str:
    rows = "".join(
        f"<tr class={c.outcome}><td><em>{c.outcome}</em></td><td>{_safe(c.name.replace('_', ' '))}"
        f"</td><td class=n>{_value(c, c.value)}</td><td class=n>{_interval(c)}</td>"
        f"<td class=n>{_value(c, c.limit)}</td><td>{_safe(c.says)}</td></tr>"
        for c in sorted(checks, key=lambda c: _ORDER[c.outcome])
    )
    head = "<tr><th><th>check<th>measured<th>interval<th>limit<th>in words</tr>"
    return f"<table>{head}{rows}</table>"


def _value(check: Check, value: float) -> str:
    if math.isnan(value):
        return ""
    if check.name == "size":
        return f"{value / 1e6:.1f} MB"
    if check.name in _SHARES:
        return f"{value:+.2%}" if check.name in _SIGNED else f"{value:.2%}"
    return f"{value:.4g}"


def _interval(check: Check) -> str:
    if math.isnan(check.low) or math.isnan(check.high):
        return ""
    return f"{_value(check, check.low)} to {_value(check, check.high)}"


def _learned(result: NightResult) -> str:
    """New classes, samples of what the champion had not known, and the terms of the lesson."""
    new = "".join(f"<li>{_safe(name)}</li>" for name in result.new_labels)
    classes = f"<p>New classes:</p><ul class=labels>{new}</ul>" if new else ""
    samples = result.figures.get("learned", ())
    shown = (
        "<p>Of last day's rows that trained, answered as the teacher does now and not before:</p>"
        + _table(("request", "the champion said", "learned"), [
            (row["text"], row["champion"], row["teacher"]) for row in samples
        ])
        if samples
        else "<p>No answer on the rows that trained was learned anew.</p>"
    )  # fmt: skip
    return classes + shown + _lesson(result.figures)


def _lesson(found: Mapping[str, Any]) -> str:
    losses, share = found.get("losses", {}), found.get("gradient_share", {})
    if not losses:
        return "<p>The encoder stayed as it was; head and calibration learned.</p>"
    rows = [(k, f"{v:.4f}", _bar(share.get(k, 0.0))) for k, v in losses.items()]
    return f"<p>{found.get('steps', 0)} steps of the encoder.</p>" + _table(
        ("term", "last epoch", "share of the gradient"), rows, raw=(2,)
    )


def _changes(changed: Sequence[Mapping[str, str]]) -> str:
    if not changed:
        return "<p>No answer changed on the rows that judged.</p>"
    rows = [
        (_fate(row), *(row[k] for k in ("text", "teacher", "champion", "challenger")))
        for row in changed
    ]
    order = {"broken": 0, "repaired": 1, "both differ": 2}
    rows.sort(key=lambda row: order[row[0]])
    marked = [(f"<em class='{r[0].split()[0]}'>{r[0]}</em>", *r[1:]) for r in rows]
    return _table(("", "request", "teacher", "champion", "challenger"), marked, raw=(0,))


def _fate(row: Mapping[str, str]) -> str:
    if row["challenger"] == row["teacher"]:
        return "repaired"
    return "broken" if row["champion"] == row["teacher"] else "both differ"


def _rows(result: NightResult) -> str:
    found = result.figures
    said = [_drift(found.get("drift", {}))]
    if share := found.get("label_issue_share"):
        said.append(f"<p>{share:.1%} of the training labels looked wrong to heads that never saw "
                    "the row; the least likely were left out.</p>")  # fmt: skip
    widest = max(result.rows.values(), default=1) or 1
    counts = [
        (name, str(count), _bar(count / widest, text=""))
        for name, count in sorted(result.rows.items(), key=lambda item: -item[1])
        if count
    ]
    return "".join(said) + _table(("rows", "count", ""), counts, raw=(2,))


def _drift(drift: Mapping[str, float]) -> str:
    if not drift:
        return ""
    much = "much" if drift["psi"] > 0.2 else "some" if drift["psi"] > 0.1 else "little"
    texts = "more than chance makes them" if drift["p"] < 0.01 else "no further than chance"
    return (
        f"<p>Since the last night the shares of the classes moved {much} (PSI {drift['psi']:.2f}), "
        f"and the texts {texts} (distance {drift['distance']:.3f}, p = {drift['p']:.2f}).</p>"
    )


def _cost(result: NightResult) -> str:
    total = sum(result.seconds.values()) or 1.0
    longest = sorted(result.seconds.items(), key=lambda item: -item[1])
    rows = [(n, f"{s:.1f} s", _bar(s / total)) for n, s in longest if s >= 0.05]
    plan = result.figures.get("planned")
    told = ""
    if plan:
        told = (
            f"<p>Planned: {plan['minutes']:.1f} minutes, {plan['encoder_megabytes']:.1f} MB of "
            f"encoder, {plan['teacher_calls']} teacher calls. Taken: {total / 60:.1f} minutes, "
            f"{result.teacher_calls} calls.</p>"
        )
    return told + _table(("stage", "took", ""), rows, raw=(2,))


def _origin(result: NightResult) -> str:
    short = {"challenger": result.challenger, "champion": result.champion, "in use": result.bundle}
    return " · ".join(f"{name} {bundle[:12] or 'none'}" for name, bundle in short.items())


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], raw: tuple[int, ...] = ()) -> str:
    """A table; cells of the `raw` columns are HTML already."""
    top = "".join(f"<th>{_safe(name)}" for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{c if i in raw else _cell(c)}</td>" for i, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(text: str) -> str:
    """Text that a narrow column may break where a class's name has a joint."""
    return _safe(text).replace("_", "_<wbr>")


def _bar(share: float, text: str | None = None) -> str:
    label = f"{share:.0%}" if text is None else text
    return f"<span class=bar><span style='width:{share * 100:.1f}%'></span></span> {label}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _safe(text: str) -> str:
    return html.escape(str(text))
