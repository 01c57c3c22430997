"""Search for a shape: the best student that answers within a given time on this machine.

Optuna proposes; each proposal is built, exported, compressed and timed in the edge's own runner
before it learns anything: time depends on the shape alone, and what is too slow costs no lesson.
The rest learn for the same number of steps and are judged on rows that they did not learn from.
Proposals and stages are kept in the workspace, so that a search that is killed goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.distill_loop import candidate as parts
from understudy.distill_loop import schooling
from understudy.distill_loop.base import Base, find_base
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.lesson import label_index
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.recipe import Recipe, StudentRecipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.split import Folds
from understudy.distill_loop.student import StudentModel
from understudy.distill_loop.taught import Taught
from understudy.distill_loop.workspace import Workspace, digest_of
from understudy.edge.student import Student
from understudy.types.errors import DataError, InvalidValueError

if TYPE_CHECKING:
    import optuna

HELD_OUT = 5
"""Every fifth row judges."""
TIMED_TEXTS, WARM_TEXTS = 50, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a search may cost, and what its student may.

    Attributes:
        max_ms: Median time of one text on this machine, one thread, milliseconds.
        trials: Proposals in all, those of earlier calls included.
        minutes: Wall time of this call; the proposal that is running is finished.
        steps: Steps of the optimiser for each.
    """

    max_ms: float
    trials: int = 20
    minutes: float = 60.0
    steps: int = 300

    def __post_init__(self) -> None:
        if not (self.max_ms > 0 and self.minutes > 0 and self.trials > 0 and self.steps > 0):
            raise InvalidValueError("max_ms, trials, minutes and steps must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What may be chosen; every list must name at least one.

    Attributes:
        layers: Layers kept.
        heads: Attention heads a layer, 0 for all.
        ffn: Feed-forward width, 0 for all.
        vocabulary: Word pieces.
    """

    layers: tuple[tuple[int, ...], ...]
    heads: tuple[int, ...] = (0,)
    ffn: tuple[int, ...] = (0,)
    vocabulary: tuple[int, ...] = (15_000,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One shape that was tried.

    Attributes:
        student: The recipe's section.
        ms: Median time of one text.
        megabytes: Size of its encoder.
        accuracy: On the held-out rows; NaN if it was too slow to be taught.
    """

    student: StudentRecipe
    ms: float
    megabytes: float
    accuracy: float


def usual_space(base: Base) -> Space:
    """First and last layers in few ways, whole or half as wide."""
    last = base.layers - 1
    ways = ((0,), (0, 1), (0, last), (0, 1, 2), (0, last // 2, last))
    rising = [way for way in ways if max(way) <= last and len(set(way)) == len(way)]
    width = base.weights()["encoder.layer.0.intermediate.dense.weight"].shape[0]
    return Space(
        layers=tuple(dict.fromkeys(rising)),
        heads=(0, max(base.heads // 2, 1)),
        ffn=(0, width // 2),
        vocabulary=(8_192, 15_000),
    )


def search(
    recipe: Recipe,
    workspace: Workspace,
    rows: Sequence[Example],
    limits: Limits,
    *,
    space: Space | None = None,
    tell: Callable[[Proposal], None] | None = None,
) -> tuple[Proposal, ...]:
    """Tries shapes; the best that is fast enough comes first, those too slow last.

    Args:
        recipe: Everything but the shape.
        workspace: Where to keep it; no night may run there meanwhile.
        rows: Labelled rows; every fifth judges.
        limits: What it may cost.
        space: What may be chosen; `usual_space` of the recipe's base when omitted.
        tell: Called with every proposal when it is done.

    Raises:
        DataError: If there are too few rows to learn from and to judge on.
    """
    with workspace.lock():
        searcher = _Searcher(recipe, workspace, rows, limits, space)
        study = searcher.study()
        done = len(_finished(study))
        if done < limits.trials:
            study.optimize(
                searcher.try_one,
                n_trials=limits.trials - done,
                timeout=limits.minutes * 60.0,
                callbacks=[] if tell is None else [lambda _, trial: tell(searcher.read(trial))],
            )
        found = [searcher.read(trial) for trial in _finished(study)]
    return tuple(sorted(found, key=lambda p: (math.isnan(p.accuracy), -p.accuracy, p.ms)))


class _Searcher:
    """The rows, the space, and how one proposal is tried."""

    def __init__(
        self,
        recipe: Recipe,
        workspace: Workspace,
        rows: Sequence[Example],
        limits: Limits,
        space: Space | None,
    ) -> None:
        known = [row for row in rows if row.target]
        self.judge = tuple(known[::HELD_OUT])
        taught = tuple(row for i, row in enumerate(known) if i % HELD_OUT)
        if len({row.target for row in taught}) < 2:
            raise DataError("a search needs labelled rows of at least two classes")
        steps = replace(
            recipe.distil, min_steps=limits.steps, max_steps=limits.steps, warm_start=False
        )
        self.recipe = replace(recipe, distil=steps)
        self.folds = Folds(train=taught, calibration=(), gate=())
        self.workspace, self.limits = workspace, limits
        self.space = space or usual_space(find_base(recipe.student.base))

    def study(self) -> optuna.Study:
        """The study of these rows, this recipe and this space; begun anew if one differs."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        inputs = {
            "recipe": self.recipe.digest,
            "rows": schooling.rows_digest((*self.folds.train, *self.judge)),
            "space": asdict(self.space),
            "max_ms": self.limits.max_ms,
        }
        path = self.workspace.path("search", "journal.log")
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=storage,
            study_name=digest_of(inputs)[:20],
            direction="maximize",
            load_if_exists=True,
        )
        # Another seed for every call: one that goes on must not propose what the first began with.
        study.sampler = optuna.samplers.TPESampler(seed=self.recipe.seed + len(study.trials))
        return study

    def try_one(self, trial: optuna.Trial) -> float:
        """Accuracy of one proposal."""
        import optuna

        night = self._night(self._proposed(trial))
        start = schooling.build(night, self.folds)
        ms, size = self._timed(night, self._shipped(night, start))
        trial.set_user_attr("ms", ms)
        trial.set_user_attr("megabytes", size / 1e6)
        if ms > self.limits.max_ms:
            raise optuna.TrialPruned
        taught = schooling.teach(night, start, self.folds)
        return self._accuracy(night, self._shipped(night, taught))

    def read(self, trial: Any) -> Proposal:  # noqa: ANN401 - optuna's two kinds of trial
        """A finished trial as a proposal."""
        value = trial.value if trial.value is not None else math.nan
        return Proposal(
            student=self._section(trial.params),
            ms=float(trial.user_attrs["ms"]),
            megabytes=float(trial.user_attrs["megabytes"]),
            accuracy=float(value),
        )

    def _proposed(self, trial: optuna.Trial) -> StudentRecipe:
        space = self.space
        names = [",".join(map(str, way)) for way in space.layers]
        trial.suggest_categorical("layers", names)
        trial.suggest_categorical("heads", space.heads)
        trial.suggest_categorical("ffn", space.ffn)
        trial.suggest_categorical("vocabulary", space.vocabulary)
        return self._section(trial.params)

    def _section(self, chosen: dict[str, Any]) -> StudentRecipe:
        layers = tuple(int(layer) for layer in chosen["layers"].split(","))
        cut = bool(chosen["heads"] or chosen["ffn"])
        return replace(
            self.recipe.student,
            use="pruned" if cut else "slim",
            keep_layers=layers,
            heads=chosen["heads"],
            ffn=chosen["ffn"],
            vocabulary=chosen["vocabulary"],
        )

    def _night(self, student: StudentRecipe) -> Night:
        recipe = replace(self.recipe, student=student)
        return Night(recipe, self.workspace, Sources(seed=self.folds.train), name="search")

    def _shipped(self, night: Night, model: StudentModel) -> Candidate:
        graph = schooling.export(night, model, self.folds)
        return schooling.shrink(night, model, graph, self.folds)

    def _timed(self, night: Night, blank: Candidate) -> tuple[float, int]:
        """Median milliseconds of one text, and bytes of the encoder."""
        student = parts.load(blank)
        texts = [row.text for row in self.judge]
        times = []
        for text in (texts * TIMED_TEXTS)[: TIMED_TEXTS + WARM_TEXTS]:
            begun = time.perf_counter()
            student.run([text])
            times.append((time.perf_counter() - begun) * 1e3)
        night.tell("timed", 1.0)
        return float(np.median(times[WARM_TEXTS:])), len(blank.encoder)

    def _accuracy(self, night: Night, blank: Candidate) -> float:
        """Share of the held-out rows that the student answers as it should."""
        texts = [row.text for row in self.folds.train]
        vectors = parts.load(blank).run(texts).vectors
        fitted = Taught(self.folds.train, vectors, blank.labels, night.recipe).fit(blank)
        student: Student = parts.load(fitted)
        said = student.run([row.text for row in self.judge]).logits.argmax(1)
        return float((said == label_index(self.judge, blank.labels)).mean())


def _finished(study: optuna.Study) -> list[Any]:
    """Trials that came to an end; one that was killed is tried again under another number."""
    import optuna

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(states=ended)
