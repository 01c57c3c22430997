"""One YAML file that describes a night; presets ship with the package.

Every section is a frozen dataclass with its defaults; an unknown key is an error that names the
nearest one. A recipe's digest covers every value, so two nights with one digest did the same thing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from understudy.distill_loop.inputs import SourcesRecipe, WhereRecipe
from understudy.distill_loop.schooling_recipe import (
    CompressRecipe,
    DistilRecipe,
    ObjectiveRecipe,
    StudentRecipe,
)
from understudy.types.config import parse_config
from understudy.types.contract import Contract
from understudy.types.errors import ConfigError, InvalidValueError

__all__ = [
    "CompressRecipe",
    "DataRecipe",
    "DistilRecipe",
    "GateRecipe",
    "HeadRecipe",
    "ObjectiveRecipe",
    "Recipe",
    "ScheduleRecipe",
    "SplitRecipe",
    "StudentRecipe",
    "load_recipe",
    "preset_names",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRecipe:
    """Which rows learn, calibrate and judge; the fold is a hash of the row's id.

    Attributes:
        train: Share of ordinary rows that train.
        calibration: Share of ordinary rows that calibrate.
        gate: Share of ordinary rows kept for the gate's comparison.
        unbiased_train: Share of unbiased rows that train. The others calibrate or certify.
        unbiased_calibration: Share of unbiased rows that calibrate; what is left certifies.
        uncertified_unbiased: Count rows logged while nothing was kept as unbiased too. True only
            where every such request was escalated: no budget, no cache, no private inputs.
        salt: Changes every fold; keep it, or rows once trained on would certify.
    """

    train: float = 0.6
    calibration: float = 0.2
    gate: float = 0.2
    unbiased_train: float = 0.0
    unbiased_calibration: float = 0.3
    uncertified_unbiased: bool = False
    salt: str = "understudy"

    def __post_init__(self) -> None:
        total = self.train + self.calibration + self.gate
        if min(self.train, self.calibration, self.gate) < 0 or abs(total - 1.0) > 1e-6:
            raise InvalidValueError(f"train, calibration and gate must sum to 1, not {total:g}")
        kept = 1.0 - self.unbiased_train - self.unbiased_calibration
        if min(self.unbiased_train, self.unbiased_calibration) < 0 or kept <= 0:
            raise InvalidValueError("some unbiased rows must be left to certify")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """How the head is fitted on the vectors of the encoder that ships.

    Attributes:
        l2: Least penalty on the weights; with few rows 0.01 divided by the rows, if that is more.
        soft: Share of the teacher's distribution in what the head learns; the rest is its label.
        anchor: Penalty on leaving the champion's weights in a refresh: fewer answers break, and the
            solver is done sooner; 0 for none.
        iterations: Upper bound of the solver's steps.
        mix: Share of the nearest-prototype answer, in [0, 1].
        sharpness: How fast a prototype's say falls with distance.
        max_bytes: Upper bound of the head file, while it has room for one prototype a class.
        prototypes: Upper bound of prototypes a class.
    """

    l2: float = 1e-6
    soft: float = 0.5
    anchor: float = 1e-5
    iterations: int = 200
    mix: float = 0.3
    sharpness: float = 20.0
    max_bytes: int = 200_000
    prototypes: int = 20

    def __post_init__(self) -> None:
        if not 0.0 <= self.soft <= 1.0:
            raise InvalidValueError("soft must lie in [0, 1]")
        if not 0.0 <= self.mix <= 1.0 or self.sharpness <= 0.0 or self.l2 <= 0.0:
            raise InvalidValueError("mix must lie in [0, 1], sharpness and l2 must be positive")
        if self.anchor < 0.0:
            raise InvalidValueError("anchor must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe:
    """What happens to rows before they teach.

    Attributes:
        window_days: Age up to which logged rows are used.
        redact: Replace addresses, numbers and names of accounts by tokens.
        near_jaccard: Near-duplicates above this similarity count once; 0 switches it off.
        max_drop: Largest share of rows dropped as probably mislabelled; 0 switches it off.
        teacher_budget: Teacher calls the night may spend on rows without a label.
        strategy: How these are chosen: `margin`, `committee`, `margin+committee` or `random`.
        balance: Exponent that evens out class sizes: 0 none, 1 full.
        gamma: Exponent that tempers inverse propensities.
        max_weight: Upper bound of a row's weight.
        taught_weight: What a teacher's answer counts beside a given example; below 1 for a teacher
            that errs.
        names: Read the classes' names, where they are words, as further examples.
        max_per_node: Largest share of the training rows that one node may send; 1 for any.
        max_class_growth: How many times its usual share one class may flood the new rows.
        replay_per_class: Rows a class kept in the replay buffer at least.
        replay_rows: Size of the replay buffer.
        generate: Examples asked of the teacher for thin classes; each is labelled again.
        thin_class: Classes with fewer rows are thin.
        ops: Names in the entry point group `understudy.op`, applied to training rows in this order.
        new_class_rows: Rows with a label of the teacher's that make it a class of the student; 0
            for never: then only approved classes are added.
    """

    window_days: float = 30.0
    redact: bool = True
    near_jaccard: float = 0.9
    max_drop: float = 0.05
    teacher_budget: int = 0
    strategy: str = "margin+committee"
    balance: float = 0.0
    gamma: float = 0.5
    max_weight: float = 10.0
    taught_weight: float = 1.0
    names: bool = False
    max_per_node: float = 1.0
    max_class_growth: float = 5.0
    replay_per_class: int = 50
    replay_rows: int = 50_000
    generate: int = 0
    thin_class: int = 10
    ops: tuple[str, ...] = ()
    new_class_rows: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecipe:
    """When a challenger may replace the champion.

    Attributes:
        margin: Accuracy that may be lost, upper 95 % bound, as a share.
        alpha: Level of every test.
        max_negative_flips: Upper bound of the share of rows that break.
        coverage_slack: Keep rate that may be lost at the contract's risk, as a share.
        max_ece: Largest calibration error, or the champion's plus 0.01.
        slice_rows: Slices with fewer rows are not tested.
        slice_loss: Largest loss of one slice, as a share.
        ood_slack: Area under the curve that may be lost on foreign rows.
        min_agreement: Least share of rows on which the graph names the same class before and after
            compression.
        latency_ratio: Largest median latency relative to the champion.
        max_bytes: Largest size of the encoder file.
        min_rows: Fewer rows to judge on leave it undecided.
        min_new_labels: Fewer new labels leave it undecided.
        require_gain: True if a challenger must be better, not only no worse.
        trust: True if a doubt does not keep the champion, only a loss that is certain: for heads
            that learn from a few more rows each time, too few to prove anything with.
        checks: Names in the entry point group `understudy.check`, run after our own.
    """

    margin: float = 0.01
    alpha: float = 0.05
    max_negative_flips: float = 0.015
    coverage_slack: float = 0.005
    max_ece: float = 0.03
    slice_rows: int = 20
    slice_loss: float = 0.10
    ood_slack: float = 0.01
    min_agreement: float = 0.96
    latency_ratio: float = 1.25
    max_bytes: int = 30_000_000
    min_rows: int = 50
    min_new_labels: int = 0
    require_gain: bool = True
    trust: bool = False
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecipe:
    """When a night or a refresh is due.

    Attributes:
        every_hours: A night at least so often.
        min_new_labels: A night as soon as so many new labels are there; 0 for never.
        refresh_labels: A head-only refresh after so many new labels; 0 for never.
        refresh_minutes: A head-only refresh at least so often; 0 for never.
        on_drift: A night as soon as the drift alarm rings.
    """

    every_hours: float = 24.0
    min_new_labels: int = 0
    refresh_labels: int = 100
    refresh_minutes: float = 60.0
    on_drift: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One night.

    Attributes:
        name: Name for reports and lineage.
        task: Name of the task.
        seed: Every random choice follows from it.
        labels: Class names to begin with; those of seed and champion are added.
        score: Name of the confidence score that is fitted.
        contract: What the user states; the caller may replace it.
        sources, data, split, student, objective, distil, where, head, compress, gate, schedule:
            The sections.
    """

    name: str = "intents-default"
    task: str = "classify"
    seed: int = 17
    labels: tuple[str, ...] = ()
    score: str = "learned"
    contract: Contract = field(default_factory=Contract)
    sources: SourcesRecipe = field(default_factory=SourcesRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    split: SplitRecipe = field(default_factory=SplitRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    distil: DistilRecipe = field(default_factory=DistilRecipe)
    where: WhereRecipe = field(default_factory=WhereRecipe)
    head: HeadRecipe = field(default_factory=HeadRecipe)
    compress: CompressRecipe = field(default_factory=CompressRecipe)
    gate: GateRecipe = field(default_factory=GateRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)

    @property
    def digest(self) -> str:
        """sha256 over every value, in hex."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(name: str, environment: Mapping[str, str] | None = None) -> Recipe:
    """Reads a preset by its name or a recipe file by its path.

    Raises:
        ConfigError: If there is no such preset or file, or it does not fit.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        return parse_config(_read(path), Recipe, source=name, environment=environment)
    known = preset_names()
    if name not in known:
        presets = ", ".join(known)
        raise ConfigError(f"there is no recipe '{name}'; name a file, or one of {presets}")
    text = (files("understudy.distill_loop") / "presets" / f"{name}.yaml").read_text("utf-8")
    return parse_config(text, Recipe, source=f"preset {name}", environment=environment)


def preset_names() -> tuple[str, ...]:
    """Names of the recipes that ship with the package."""
    folder = files("understudy.distill_loop") / "presets"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the recipe cannot be read: {error}") from error
