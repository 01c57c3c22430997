"""Can a score or a distance keep out what the student was never taught?

60 of BANKING77's intents are known, 17 are not. A head on frozen vectors, the contract (2 %)
certified on known traffic; then how much of known and of unseen traffic is kept at that threshold,
by score, by the limit under which an input counts as foreign, and with rows of left-out classes as
counter-examples: heads that never saw a sixth of the classes answer their rows, and the learned
score is fitted to trust none of those answers.

python bench/contract_unseen.py          one draw of intents
python bench/contract_unseen.py --full   three draws, as reported
"""

from __future__ import annotations

from dataclasses import dataclass

import contract_data as data
import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.recipe import HeadRecipe
from understudy.edge.bundle import Head
from understudy.router.certificate import certify
from understudy.router.fit import fit_calibration
from understudy.router.score import score_many
from understudy.types.contract import Calibration, Contract

KNOWN, SEEDS_EACH, TRAIN, CALIBRATE, CERTIFY, PARTS = 60, 10, 730, 250, 650, 6
FOREIGN = (0.02, 0.05)
WEIGHTS = (0.1, 0.2, 0.4)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a head says of some rows."""

    logits: Floats
    near: Floats
    right: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class World:
    """Answers on rows that calibrate, certify, and stand for known and unseen traffic."""

    calibrate: Answers
    certify: Answers
    known: Answers
    unseen: Answers
    left_out: Answers


def answers(head: Head, rows: data.Vectors, labels: data.Ints, classes: int = KNOWN) -> Answers:
    logits = apply_head(head, rows)[0].astype(np.float64)
    near = np.clip((rows @ head.prototypes.T).max(axis=1), -1.0, 1.0).astype(np.float64)
    right = logits.argmax(axis=1) == labels
    missing = np.full((len(rows), classes - logits.shape[1]), logits.min() - 20.0)
    return Answers(np.concatenate([logits, missing], axis=1), near, right)


def build(texts: data.Texts, seed: int) -> World:
    rng = np.random.default_rng(seed)
    known = np.sort(rng.permutation(77)[:KNOWN])
    index = np.full(77, -1)
    index[known] = np.arange(KNOWN)
    order, labels = rng.permutation(len(texts.gold)), index[texts.gold]
    first: list[int] = []
    for name in range(KNOWN):
        first += order[labels[order] == name][:SEEDS_EACH].tolist()
    rest = [i for i in order if labels[i] >= 0 and i not in set(first)]
    cuts = np.cumsum([TRAIN, CALIBRATE, CERTIFY])
    train, calibrate, audits, later = np.split(np.array(rest), cuts)
    train = np.concatenate([np.array(first), train])
    head = fit_head(texts.vectors[train], labels[train], KNOWN, recipe=HeadRecipe())

    def see(rows: data.Ints) -> Answers:
        return answers(head, texts.vectors[rows], labels[rows])

    strange = np.flatnonzero(labels < 0)
    parts = np.array_split(rng.permutation(KNOWN), PARTS)
    left_out = [without(texts.vectors[train], labels[train], part) for part in parts]
    joined = Answers(
        np.concatenate([a.logits for a in left_out]),
        np.concatenate([a.near for a in left_out]),
        np.concatenate([a.right for a in left_out]),
    )
    return World(see(calibrate), see(audits), see(later), see(strange), joined)


def without(rows: data.Vectors, labels: data.Ints, part: data.Ints) -> Answers:
    """What a head that never saw some classes says of their rows: always wrong."""
    out = np.isin(labels, part)
    names, index = np.unique(labels[~out], return_inverse=True)
    head = fit_head(rows[~out], index, len(names), recipe=HeadRecipe())
    return answers(head, rows[out], np.full(int(out.sum()), -1))


def calibrations(world: World) -> dict[str, Calibration]:
    rows, out = world.calibrate, world.left_out
    found = {
        name: fit_calibration(rows.logits, rows.near, rows.right, score=name)
        for name in ("learned", "margin", "max_prob", "energy")
    }
    for share in FOREIGN:
        found[f"learned, {share:.0%} may be foreign"] = fit_calibration(
            rows.logits, rows.near, rows.right, foreign_share=share
        )
    for weight in WEIGHTS:
        mass = np.full(len(out.near), weight * len(rows.near) / len(out.near))
        found[f"learned, left-out classes weigh {weight:g}"] = fit_calibration(
            np.concatenate([rows.logits, out.logits]),
            np.concatenate([rows.near, out.near]),
            np.concatenate([rows.right, out.right]),
            weights=np.concatenate([np.ones(len(rows.near)), mass]),
        )
    return found


def judge(world: World, calibration: Calibration) -> tuple[float, float, float, float]:
    """Share kept of known traffic, its risk, share kept of unseen, share of that found foreign."""

    def effective(rows: Answers) -> Floats:
        return score_many(rows.logits, rows.near, calibration).effective

    threshold = certify(effective(world.certify), world.certify.right, Contract()).threshold
    known, unseen = effective(world.known) >= threshold, effective(world.unseen) >= threshold
    foreign = score_many(world.unseen.logits, world.unseen.near, calibration).foreign
    risk = (known & ~world.known.right).mean()
    return float(known.mean()), float(risk), float(unseen.mean()), float(foreign.mean())


def main() -> None:
    options = data.parser(__doc__ or "").parse_args()
    texts = data.banking(options.data, options.cache, "train")
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for seed in (17, 1, 2)[: 3 if options.full else 1]:
        world = build(texts, seed)
        for name, calibration in calibrations(world).items():
            found.setdefault(name, []).append(judge(world, calibration))
    rows = [[name, *np.mean(values, axis=0).tolist()] for name, values in found.items()]
    data.table(["score", "known kept", "its risk", "unseen kept", "unseen found foreign"], rows)
    data.write(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
