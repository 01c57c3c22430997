"""The report of a stream: `report.json` for programs, `report.html` for people, written atomically.

The page is one file: figures are pictures inside it, nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.days import DayReport, Totals
from understudy.cli.output import show_table
from understudy.files import write_atomic
from understudy.types.contract import Contract

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGE, CLOUD, AUDIT, WARN, MUTED = "#2a9d8f", "#e76f51", "#e9c46a", "#b5179e", "#8d99ae"


@dataclass(frozen=True, slots=True, kw_only=True)
class NightLine:
    """One night in the report.

    Attributes:
        day: The day it followed.
        verdict: `promote`, `keep` or `undecided`.
        reason: One sentence: why.
        bundle: Id of the bundle in use afterwards.
        seconds: Wall time.
        rows: Rows it learned from.
        bytes_shipped: Bytes that travelled to the edge for it.
        teacher_calls: Answers it bought of the teacher.
    """

    day: int
    verdict: str
    reason: str
    bundle: str
    seconds: float
    rows: int
    bytes_shipped: int
    teacher_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """An input the teacher had to answer once and the student answers now."""

    text: str
    label: str
    day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """Everything a finished stream is reported with."""

    title: str
    contract: Contract
    days: tuple[DayReport, ...]
    totals: Totals
    nights: tuple[NightLine, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    teacher_price_per_1000: float = 1.0


def write_report(report: StreamReport, folder: Path) -> tuple[Path, Path]:
    """Writes `report.json` and `report.html` into `folder`; returns both paths.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    as_json = folder / "report.json"
    as_html = folder / "report.html"
    as_fields = json.dumps(report_fields(report), indent=2) + "\n"
    write_atomic(as_json, as_fields.encode(), mode=0o644)
    write_atomic(as_html, render_page(report).encode(), mode=0o644)
    return as_json, as_html


def report_fields(report: StreamReport) -> dict[str, Any]:
    """The promised fields of `report.json`, and what else a program may want."""
    return {
        "title": report.title,
        "contract": asdict(report.contract),
        "days": [asdict(day) for day in report.days],
        "totals": asdict(report.totals),
        "nights": [asdict(night) for night in report.nights],
        "facts": dict(report.facts),
    }


def render_page(report: StreamReport) -> str:
    """The page as one self-contained text."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("understudy.cli", "templates"), autoescape=True, trim_blocks=True
    )
    environment.filters["percent"] = _percent
    environment.filters["contract"] = contract_word
    environment.filters["kb"] = lambda v: f"{v / 1000:,.0f} kB" if v < 1e6 else f"{v / 1e6:.1f} MB"
    return environment.get_template("report.html").render(
        report=report,
        figures=_figures(report),
        saved=_saved(report.totals.teacher_call_rate),
        last_saved=_saved(report.days[-1].teacher_call_rate),
    )


def _saved(call_rate: float) -> float:
    """Share of teacher calls that were not needed, against always asking."""
    return max(0.0, 1.0 - call_rate)


def _figures(report: StreamReport) -> list[tuple[str, str]]:
    """Caption and PNG as a data address, one pair a figure."""
    drawings = (
        ("Who answered, day by day", _draw_sources),
        ("Quality: the cascade beside its parts", _draw_quality),
        ("Risk taken on the edge, and the contract", _draw_risk),
    )
    return [(caption, _picture(report, draw)) for caption, draw in drawings]


def _picture(report: StreamReport, draw: Any) -> str:  # noqa: ANN401 - one of the _draw functions
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=(6.4, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, report)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw_sources(axes: Axes, report: StreamReport) -> None:
    days = [d.day for d in report.days]
    kept = [100 * d.kept_rate for d in report.days]
    asked = [100 * d.escalation_rate for d in report.days]
    degraded = [max(0.0, 100 - a - b) for a, b in zip(kept, asked, strict=True)]
    axes.bar(days, kept, color=EDGE, label="student, on the edge")
    axes.bar(days, asked, bottom=kept, color=CLOUD, label="teacher, in the cloud")
    if max(degraded) > 0.05:
        top = [a + b for a, b in zip(kept, asked, strict=True)]
        axes.bar(days, degraded, bottom=top, color=MUTED, label="degraded")
    calls = [100 * d.teacher_call_rate for d in report.days]
    axes.plot(days, calls, color="black", marker="o", lw=1.5, label="teacher calls, audits counted")
    _label(axes, days, "% of requests", top=100.0)


def _draw_quality(axes: Axes, report: StreamReport) -> None:
    days = [d.day for d in report.days]
    lines = (
        ("the cascade", "system_accuracy", EDGE, 2.5),
        ("teacher alone", "teacher_accuracy", CLOUD, 1.5),
        ("student alone", "student_accuracy", MUTED, 1.5),
    )
    for name, field, colour, width in lines:
        values = [getattr(d, field) for d in report.days]
        if all(v is not None for v in values):
            axes.plot(
                days, [100 * v for v in values], marker="o", color=colour, lw=width, label=name
            )
    _label(axes, days, "% right")


def _draw_risk(axes: Axes, report: StreamReport) -> None:
    days = [d.day for d in report.days]
    risks = [None if d.joint_risk is None else 100 * d.joint_risk for d in report.days]
    colours = [EDGE if d.certified else MUTED for d in report.days]
    for day, risk, colour in zip(days, risks, colours, strict=True):
        if risk is not None:
            axes.bar([day], [risk], color=colour)
    limit = 100 * report.contract.max_quality_loss
    axes.axhline(limit, color=WARN, lw=1.5, label=f"contract: at most {limit:g} %")
    axes.bar([days[0]], [0], color=EDGE, label="measured, certified day")
    axes.bar([days[0]], [0], color=MUTED, label="measured, not certified")
    _label(axes, days, "% kept and unlike the teacher")


def _label(axes: Axes, days: Sequence[int], unit: str, top: float | None = None) -> None:
    axes.set_xticks(list(days), [f"day {d}" for d in days])
    axes.set_ylabel(unit)
    if top is not None:
        axes.set_ylim(0, top)
    if axes.get_legend_handles_labels()[0]:
        # Outside the axes: no line or bar is ever hidden behind it.
        axes.figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)


def show_days(report: StreamReport, written: tuple[Path, Path]) -> None:
    """Prints the table of the days, the sum of it all, and where the report lies."""
    columns = (
        "day",
        "requests",
        "teacher calls",
        "cascade",
        "student",
        "teacher",
        "risk",
        "contract",
    )
    show_table(columns, [_day_cells(day) for day in report.days])
    sums, contract = report.totals, report.contract
    typer.echo(
        f"\n{sums.requests} requests, {_percent(_saved(sums.teacher_call_rate))}"
        " of the teacher's calls not needed."
        f" Right: {_percent(sums.system_accuracy)}, the teacher alone"
        f" {_percent(sums.teacher_accuracy)}. Risk taken: {_percent(sums.joint_risk)} of"
        f" {_percent(contract.max_quality_loss)} allowed. Student: {sums.edge_p50_ms:.2f} ms."
    )
    for path in written:
        typer.echo(f"written: {path}")


def _day_cells(day: DayReport) -> tuple[object, ...]:
    return (
        day.day,
        day.requests,
        _percent(day.teacher_call_rate),
        _percent(day.system_accuracy),
        _percent(day.student_accuracy),
        _percent(day.teacher_accuracy),
        _percent(day.joint_risk),
        contract_word(day),
    )


def contract_word(day: DayReport) -> str:
    """How the contract stood that day, in words."""
    if day.withdrawn:
        return "certified, withdrawn on drift"
    return "certified" if day.certified else "not certified"


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"
