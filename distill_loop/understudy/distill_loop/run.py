"""A night, on one screen: what was asked becomes a student, and the gate decides whether it ships.

`first_student` makes the bundle of day 0, `run_night` every later one, `refresh.refresh_head` the
quick ones in between. All three go through the same head, calibration, certificate and gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from understudy.distill_loop import examining, harvest, proving, schooling
from understudy.distill_loop.gate import Check, Outcome, Ruling, Verdict
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.plan_store import planned_for
from understudy.distill_loop.publish import Publish, offer
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.teacher import NightTeacher
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NightResult:
    """What came of a night.

    Attributes:
        name: Name of the night.
        ruling: What the gate said.
        bundle: Id of the bundle to use from now on: the challenger, the champion with a renewed
            certificate, or the champion as it was.
        directory: Where that bundle lies.
        renewed: True if the champion stays and got a new calibration and certificate.
        challenger: Id of the student made tonight.
        champion: Id of the one before; empty when there was none.
        certified: True if the bundle to use has a certificate.
        threshold: Its threshold, infinite when nothing may be kept.
        keep_rate: Share of the audited rows it keeps.
        rows_missing: Audited rows still needed for a certificate.
        checks: Every check of the gate.
        rows: Rows by what became of them.
        labels: Classes of the challenger.
        new_labels: Of these, unknown to the champion.
        teacher_calls: Answers asked of the teacher tonight.
        seconds: Wall time by stage.
        figures: Further numbers for the report.
    """

    name: str
    ruling: Ruling
    bundle: str
    directory: Path
    renewed: bool
    challenger: str
    champion: str
    certified: bool
    threshold: float
    keep_rate: float
    rows_missing: int
    checks: tuple[Check, ...]
    rows: Mapping[str, int]
    labels: tuple[str, ...]
    new_labels: tuple[str, ...]
    teacher_calls: int
    seconds: Mapping[str, float]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def promoted(self) -> bool:
        """True if the challenger ships."""
        return self.ruling is Ruling.PROMOTE

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not; empty if it does."""
        return Verdict(self.ruling, self.checks).reasons


def run_night(
    recipe: Recipe,
    workspace: Workspace,
    sources: Sources,
    *,
    name: str,
    teacher: NightTeacher | None = None,
    publish: Publish | None = None,
    progress: Progress | None = None,
) -> NightResult:
    """Runs one night to its end; safe to repeat and to kill.

    Args:
        recipe: What to do.
        workspace: Where to keep it; one night at a time.
        sources: Rows, champion and lists.
        name: Name of the night, such as its date; a night that has ended is not run again.
        teacher: Asked only within `data.teacher_budget`; not needed otherwise.
        publish: Takes the bundle's folder and a note; None to only make it.
        progress: Called with a stage's name and its share done.

    Raises:
        ConfigError: If another night runs, or recipe and sources do not fit.
        DataError: If there is nothing to learn from.
    """
    with workspace.lock():
        night = Night(recipe, workspace, sources, name, teacher, progress)
        if (ended := recorded_night(workspace, name)) is not None:
            _hand_on(night, ended, publish)
            return ended
        rows = harvest.label(night, harvest.collect(night))
        folds = harvest.enrich(night, harvest.deal(night, rows))
        harvest.propose_classes(night, rows, folds)
        model = schooling.teach(night, schooling.build(night, folds), folds)
        graph = schooling.export(night, model, folds)
        small = schooling.shrink(night, model, graph, folds)
        proved = proving.prove(night, small, folds)
        verdict = examining.examine(night, proved, folds, graph)
        made = proving.write(night, proved, folds, model)
        chosen, renewed = proving.choose(night, made, verdict, folds)
        result = _result(name, night, verdict, (made, chosen), renewed=renewed)
        workspace.record_night(name, _plain(result))
        harvest.keep_buffer(night)
        workspace.mark("night", night.now_unix_s)
        _hand_on(night, result, publish)
        return result


def first_student(
    recipe: Recipe,
    workspace: Workspace,
    seed: Sequence[Example],
    *,
    teacher: NightTeacher | None = None,
    unlabelled: Sequence[str] = (),
    progress: Progress | None = None,
) -> NightResult:
    """Makes the student of day 0 from a few rows; nothing is certified yet.

    Args:
        recipe: What to do.
        workspace: Where to keep it.
        seed: Rows with labels.
        teacher: If given, seed rows get its soft labels, as far as `data.teacher_budget` goes.
        unlabelled: Texts like those to come; they teach the encoder, not the head.
        progress: As in `run_night`.
    """
    sources = Sources(seed=tuple(seed), unlabelled=tuple(unlabelled))
    return run_night(recipe, workspace, sources, name="day-0", teacher=teacher, progress=progress)


def _hand_on(night: Night, result: NightResult, publish: Publish | None) -> None:
    """Offers what the night made, once: a night repeated after a rollback must not undo it.

    A night that ended and was killed before it could offer, or that was not to ship, offers when it
    is run again, as long as the champion is still the one it was compared with.
    """
    workspace = night.workspace
    if workspace.offered(night.name) or publish is None or night.champion_id != result.champion:
        return
    offer(result.bundle, result.directory, result.champion, publish, note=f"night {night.name}")
    workspace.mark_offered(night.name)


def recorded_night(workspace: Workspace, name: str) -> NightResult | None:
    """The result of a night that has ended; None when none of that name has."""
    ended = workspace.night(name)
    return None if ended is None else _restore(ended)


def _result(
    name: str, night: Night, verdict: Verdict, folders: tuple[Path, Path], *, renewed: bool
) -> NightResult:
    made, bundle = read_bundle(folders[0]), read_bundle(folders[1])
    proved = bundle.certificate
    night.figures["risk_allowed"] = night.recipe.contract.max_quality_loss
    night.figures["risk_upper_bound"] = proved.risk_upper_bound
    if planned := planned_for(night):
        night.figures["planned"] = planned
    return NightResult(
        name=name,
        ruling=verdict.ruling,
        bundle=bundle.id,
        directory=folders[1],
        renewed=renewed,
        challenger=made.id,
        champion=night.champion_id,
        certified=proved.certified,
        threshold=proved.threshold,
        keep_rate=proved.keep_rate,
        rows_missing=min(proved.rows_missing, made.certificate.rows_missing),
        checks=verdict.checks,
        rows=night.counts,
        labels=made.manifest.labels,
        new_labels=tuple(n for n in made.manifest.labels if n not in night.champion_labels),
        teacher_calls=night.teacher_calls,
        seconds=night.seconds,
        figures=night.figures,
    )


def _plain(result: NightResult) -> dict[str, Any]:
    plain = asdict(result)
    plain["directory"] = str(result.directory)
    return plain


def _restore(plain: dict[str, Any]) -> NightResult:
    """A night that has ended, as it was recorded; infinity was written as null."""
    checks = tuple(
        Check(
            c["name"],
            Outcome(c["outcome"]),
            _number(c["value"]),
            _number(c["limit"]),
            c["says"],
            _number(c.get("low", math.nan)),
            _number(c.get("high", math.nan)),
        )
        for c in plain["checks"]
    )
    return NightResult(
        **{
            **plain,
            "ruling": Ruling(plain["ruling"]),
            "directory": Path(plain["directory"]),
            "threshold": math.inf if plain["threshold"] is None else plain["threshold"],
            "checks": checks,
            "labels": tuple(plain["labels"]),
            "new_labels": tuple(plain["new_labels"]),
        }
    )


def _number(value: float | None) -> float:
    return math.inf if value is None else float(value)
