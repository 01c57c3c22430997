"""`understudy policy`: certify a threshold, plan a contract, ask what would have been."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.output import plain, show_fields, show_table
from understudy.cli.policy_words import Asked, certificate_words, judged, plan_words
from understudy.types.config import nearest_key
from understudy.types.contract import Contract, RiskKind, SliceCertificate
from understudy.types.decision import RecordKind
from understudy.types.errors import DataError
from understudy.types.records import LoggedRow

if TYPE_CHECKING:
    from understudy.cloud.config import CloudConfig

app = typer.Typer(
    no_args_is_help=True, help="Certify a threshold on recorded scores; plan what a contract needs."
)
Loss = Annotated[
    float, typer.Option("--max-quality-loss", help="Largest risk accepted, such as 0.02.")
]
Confidence = Annotated[
    float, typer.Option(help="Probability with which the bound must hold, such as 0.95.")
]
Kind = Annotated[RiskKind, typer.Option(help="Which risk is bounded.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for scripts.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What `policy fit` prints."""

    threshold: float
    keep_rate: float
    risk_upper_bound: float
    certified: bool
    rows: int
    rows_missing: int


@app.command(
    epilog="Example: understudy policy fit --scores scores.csv --max-quality-loss 0.02"
    " --confidence 0.95 --json"
)
def fit(
    scores: Annotated[Path, typer.Option(help="CSV with the columns confidence and agree.")],
    max_quality_loss: Loss = 0.02,
    confidence: Confidence = 0.95,
    kind: Kind = RiskKind.JOINT,
    as_json: AsJson = False,
) -> None:
    """Finds the lowest threshold that keeps the contract on audited rows.

    One row an audited request: the student's confidence, and 1 if it agreed with the teacher, else
    0; with a column `slice`, each slice is certified too. Prints `threshold` none while nothing can
    be certified, and how many rows are missing.
    """
    from understudy.router.certificate import certify

    contract = Contract(max_quality_loss=max_quality_loss, confidence=confidence, kind=kind)
    columns = read_scores(scores)
    found = certify(columns.confidence, columns.agree, contract, slices=columns.slices)
    result = Fit(
        threshold=found.threshold,
        keep_rate=found.keep_rate,
        risk_upper_bound=found.risk_upper_bound,
        certified=found.certified,
        rows=found.rows,
        rows_missing=found.rows_missing,
    )
    slices = {"slices": plain(found.slices)} if as_json and columns.slices else {}
    show_fields(plain(result) | slices, as_json=as_json)
    if not as_json:
        typer.echo(f"\n{certificate_words(found)}")
        _show_slices(found.slices)


def _show_slices(slices: Sequence[SliceCertificate]) -> None:
    """A table of slices; nothing when there are none."""
    if not slices:
        return
    typer.echo()
    rows = [(s.name, s.threshold, s.rows, s.inherited) for s in slices]
    show_table(("slice", "threshold", "rows", "inherited"), rows)


@dataclass(frozen=True, slots=True)
class ScoreColumns:
    """The columns of a score file, same length; no slices where there is no such column."""

    confidence: tuple[float, ...]
    agree: tuple[float, ...]
    slices: tuple[str, ...] | None = None


def read_scores(path: Path) -> ScoreColumns:
    """Reads `confidence`, `agree` and, where there is one, `slice` from CSV.

    Raises:
        DataError: If a column is missing or a value is out of range; names the row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if not rows:
        raise DataError(f"{path}: there are no rows; columns confidence and agree are needed")
    for name in ("confidence", "agree"):
        if name not in rows[0]:
            known = [key for key in rows[0] if key]
            raise DataError(f"{path}: there is no column `{name}`.{nearest_key(name, known)}")
    pairs = [_pair(path, number, row) for number, row in enumerate(rows, start=1)]
    names = tuple((row["slice"] or "").strip() for row in rows) if "slice" in rows[0] else None
    return ScoreColumns(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), names)


def _pair(path: Path, number: int, row: dict[str, str]) -> tuple[float, float]:
    try:
        confidence, agree = float(row["confidence"]), float(row["agree"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: row {number} needs numbers in confidence and agree") from error
    if not 0.0 <= confidence <= 1.0:
        raise DataError(f"{path}: row {number} has a confidence outside 0 to 1: {confidence}")
    if agree not in (0.0, 1.0):
        raise DataError(f"{path}: row {number} has an agree that is neither 0 nor 1: {agree:g}")
    return confidence, agree


@app.command(
    epilog="Example: understudy policy plan --requests-per-day 20000 --audit-rate 0.02"
    " --max-quality-loss 0.02 --disagreement 0.1"
)
def plan(
    requests_per_day: Annotated[float, typer.Option(help="Requests of the whole fleet.")],
    audit_rate: Annotated[float, typer.Option(help="Share of requests audited.")] = 0.02,
    disagreement: Annotated[
        float | None, typer.Option(help="How often student and teacher differ, if known.")
    ] = None,
    max_quality_loss: Loss = 0.02,
    confidence: Confidence = 0.95,
    kind: Kind = RiskKind.JOINT,
    as_json: AsJson = False,
) -> None:
    """Says how many audits and days a contract needs, and what it can save at best."""
    from understudy.router.plan import Traffic
    from understudy.router.plan import plan as make_plan

    contract = Contract(max_quality_loss=max_quality_loss, confidence=confidence, kind=kind)
    traffic = Traffic(
        requests_per_day=requests_per_day, audit_rate=audit_rate, disagreement=disagreement
    )
    found = make_plan(contract, traffic)
    show_fields(found, as_json=as_json)
    if not as_json:
        typer.echo(f"\n{plan_words(found, contract, traffic)}")


@app.command(
    "what-if",
    epilog="Example: understudy policy what-if -c cloud.yaml --threshold 0.8",
)
def what_if(
    config: Annotated[Path, typer.Option("-c", "--config", help="The cloud's YAML file.")] = Path(
        "cloud.yaml"
    ),
    threshold: Annotated[
        float | None, typer.Option(help="A threshold; what the contract allows if not named.")
    ] = None,
    requests: Annotated[
        float | None, typer.Option(help="Requests the log stands for, if known.")
    ] = None,
    audit_rate: Annotated[float, typer.Option(help="Share of requests audited.")] = 0.02,
    max_quality_loss: Annotated[
        float | None, typer.Option(help="Largest risk accepted; the configured one if not named.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of bound and intervals; the configured one likewise.")
    ] = None,
    bundle: Annotated[
        str, typer.Option(help="Student, by the begin of its id; the newest in the log.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Judges a threshold or a contract that never ran, on what was logged; asks no model.

    Rows of one student only: what 0.9 means changes from student to student.
    """
    from understudy.cloud.config import load_config
    from understudy.router.offpolicy import Terms, read_log, what_if_contract
    from understudy.router.offpolicy import what_if as judge

    cloud = load_config(config)
    logged, chosen = rows_of(read_rows_of(cloud), bundle)
    task = cloud.tasks.get(logged[-1].record.task)
    contract = asked_contract(task.contract if task else Contract(), max_quality_loss, confidence)
    columns, noise = read_log(logged, requests=requests)
    terms = Terms(audit_rate=audit_rate, confidence=contract.confidence)
    if threshold is not None:
        found = judge(columns, threshold, terms)
    else:
        found = what_if_contract(columns, contract, terms)
    asked = replace(chosen, unreliable_rows=len(logged) - sum(noise.reliable))
    shown = plain(found) | plain(asked) if as_json else judged(found, asked)
    show_fields(shown, as_json=as_json)


def asked_contract(
    configured: Contract, max_quality_loss: float | None, confidence: float | None
) -> Contract:
    """The configured contract, with what was asked instead."""
    loss = configured.max_quality_loss if max_quality_loss is None else max_quality_loss
    sure = configured.confidence if confidence is None else confidence
    return replace(configured, max_quality_loss=loss, confidence=sure)


def read_rows_of(cloud: CloudConfig) -> list[LoggedRow]:
    """Every row of a cloud's log."""
    from understudy.cloud.parts import open_log

    log = open_log(cloud)
    try:
        return list(log.scan())
    finally:
        log.close()


def rows_of(rows: Sequence[LoggedRow], bundle: str) -> tuple[list[LoggedRow], Asked]:
    """The rows of one student.

    Args:
        rows: Rows of a log, oldest first.
        bundle: How the student's id begins; empty for the student of the newest row.

    Raises:
        DataError: If there are no such rows, or those of several students.
    """
    if not rows:
        raise DataError("the log of this cloud is empty; nothing can be judged yet")
    wanted = bundle or rows[-1].record.bundle
    found = sorted({r.record.bundle for r in rows if r.record.bundle.startswith(wanted)})
    if len(found) != 1:
        known = ", ".join(sorted({row.record.bundle[:12] for row in rows}))
        many = "more than one student's id begins" if found else "no student's id begins"
        raise DataError(f"{many} with {wanted}; those in the log: {known}")
    mine = [row for row in rows if row.record.bundle == found[0]]
    degraded = sum(row.record.kind is RecordKind.DEGRADED for row in mine)
    asked = Asked(
        bundle=found[0],
        rows=len(mine),
        other_rows=len(rows) - len(mine),
        unreliable_rows=0,
        degraded_rows=degraded,
    )
    return mine, asked
