"""`understudy policy`: certify a threshold, plan a contract, ask what would have been."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.output import show_fields
from understudy.types.config import nearest_key
from understudy.types.contract import Contract, RiskKind
from understudy.types.errors import DataError

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
    0. Prints `threshold` none while nothing can be certified, and how many rows are missing.
    """
    from understudy.router.certificate import certify

    contract = Contract(max_quality_loss=max_quality_loss, confidence=confidence, kind=kind)
    columns = read_scores(scores)
    found = certify(columns.confidence, columns.agree, contract)
    result = Fit(
        threshold=found.threshold,
        keep_rate=found.keep_rate,
        risk_upper_bound=found.risk_upper_bound,
        certified=found.certified,
        rows=found.rows,
        rows_missing=found.rows_missing,
    )
    show_fields(result, as_json=as_json)


@dataclass(frozen=True, slots=True)
class ScoreColumns:
    """The two columns of a score file, same length."""

    confidence: tuple[float, ...]
    agree: tuple[float, ...]


def read_scores(path: Path) -> ScoreColumns:
    """Reads `confidence` and `agree` from CSV.

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
    return ScoreColumns(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))


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
    show_fields(make_plan(contract, traffic), as_json=as_json)


@app.command(
    "what-if",
    epilog="Example: understudy policy what-if -c cloud.yaml --threshold 0.8",
)
def what_if(
    config: Annotated[Path, typer.Option("-c", "--config", help="The cloud's YAML file.")] = Path(
        "cloud.yaml"
    ),
    threshold: Annotated[
        float | None, typer.Option(help="A threshold; the contract's own if not named.")
    ] = None,
    requests: Annotated[
        float | None, typer.Option(help="Requests the log stands for, if known.")
    ] = None,
    audit_rate: Annotated[float, typer.Option(help="Share of requests audited.")] = 0.02,
    max_quality_loss: Loss = 0.02,
    confidence: Confidence = 0.95,
    as_json: AsJson = False,
) -> None:
    """Judges a threshold or a contract that never ran, on what was logged; asks no model."""
    from understudy.cloud.config import load_config
    from understudy.cloud.parts import open_log
    from understudy.router.offpolicy import Terms, read_log, what_if_contract
    from understudy.router.offpolicy import what_if as judge

    cloud = load_config(config)
    log = open_log(cloud)
    try:
        columns, _ = read_log(log.scan(), requests=requests)
    finally:
        log.close()
    terms = Terms(audit_rate=audit_rate, confidence=confidence)
    if threshold is not None:
        found = judge(columns, threshold, terms)
    else:
        contract = Contract(max_quality_loss=max_quality_loss, confidence=confidence)
        found = what_if_contract(columns, contract, terms)
    show_fields(found, as_json=as_json)
