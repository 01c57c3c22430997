"""With nothing configured the cascade does its work: what is least sure escalates.

A default threshold that no score can fall under has kept a well-known router from ever escalating;
users' own data must be able to move a threshold, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from understudy.router.certificate import certify
from understudy.router.fit import fit_calibration
from understudy.router.policy import Policy
from understudy.router.score import SCORES, score, score_many
from understudy.types.contract import Calibration, Certificate, Contract
from understudy.types.decision import Action
from unit.router.rows import KEY


@dataclass(frozen=True, slots=True)
class World:
    """A student of ten classes that agrees with its teacher on nine requests of ten."""

    logits: np.ndarray
    near: np.ndarray
    labels: np.ndarray

    @property
    def agree(self) -> np.ndarray:
        return self.logits.argmax(1) == self.labels

    def part(self, first: int, last: int) -> World:
        return World(self.logits[first:last], self.near[first:last], self.labels[first:last])


def world(rows: int = 9000, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 10)) * rng.uniform(0.5, 9.0, (rows, 1))
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (chance.cumsum(1) > rng.random((rows, 1))).argmax(1)
    return World(logits, rng.uniform(0.3, 1.0, rows), labels)


def certified(calibration: Calibration, rows: World) -> Certificate:
    scores = score_many(rows.logits, rows.near, calibration)
    return certify(scores.effective, rows.agree, Contract())


@pytest.mark.parametrize("name", SCORES)
def test_with_default_settings_the_least_confident_tenth_escalates(name: str) -> None:
    everything = world()
    train, audits, live = (everything.part(n, n + 3000) for n in (0, 3000, 6000))
    calibration = fit_calibration(train.logits, train.near, train.agree, score=name)
    policy = Policy.from_certificate(certified(calibration, audits), audit_rate=0.01, audit_key=KEY)

    scores = [score(z, s, calibration) for z, s in zip(live.logits, live.near, strict=True)]
    least = np.argsort([s.confidence for s in scores])[:300]
    actions = {policy.decide(scores[i], str(i)).action for i in least}
    assert policy.certified
    assert {Action.ESCALATE} == actions


def test_before_anything_is_certified_everything_escalates() -> None:
    policy = Policy.from_certificate(
        certified(Calibration(), world(20)), audit_rate=0.01, audit_key=KEY
    )
    live = world(200, seed=1)
    scores = [score(z, s, Calibration()) for z, s in zip(live.logits, live.near, strict=True)]

    assert {Action.ESCALATE} == {policy.decide(s, str(i)).action for i, s in enumerate(scores)}


def test_a_users_own_rows_move_the_threshold() -> None:
    # Certified on easy traffic, then again on the user's harder rows.
    rows = world()
    easy, later = rows.part(0, 3000), rows.part(3000, 6000)
    moved = np.where(np.arange(3000) % 20 == 0, 9 - later.labels, later.labels)
    hard = World(later.logits, later.near, moved)

    assert certified(Calibration(), easy).threshold < certified(Calibration(), hard).threshold
