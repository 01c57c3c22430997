"""Seven days in half a minute: policy, log, watch and certificate as they run, a night in a page.

The stream of `night_seven` (60 intents, 17 more from day 3 on as a third of traffic), the student
a head on frozen sentence vectors. Each night deals the log's rows out as the night does, fits head
and calibration, and certifies; there is no encoder to train and no gate. Everything between two
nights is the product's: policy, audit coin, log, the gateway's watch, check-ins every quarter of an
hour.

python bench/contract_seven.py          with the watch
python bench/contract_seven.py --unwatched
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import night_seven as seven
import numpy as np
from night_seven import Cloud, Request, Tally
from numpy.typing import NDArray

from understudy.cloud.log import NewRow
from understudy.cloud.watch import ContractWatch, last_changes
from understudy.distill_loop.base import find_base
from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.lesson import VectorCache
from understudy.distill_loop.recipe import HeadRecipe, Recipe
from understudy.distill_loop.rows import Example, from_log
from understudy.distill_loop.split import Folds, split
from understudy.distill_loop.student import encode, whole_base
from understudy.edge.bundle import Head, encode_certificate
from understudy.router.certificate import certify
from understudy.router.fit import fit_calibration
from understudy.router.policy import Policy, Score
from understudy.router.score import Scores, score_many
from understudy.types.bundle import (
    CERTIFICATE,
    REQUIRED,
    FileEntry,
    Manifest,
    bundle_id,
    encode_manifest,
)
from understudy.types.contract import Calibration, Certificate, Contract
from understudy.types.decision import Action
from understudy.types.release import Directive, NodeStatus

TASK, CONTRACT = "classify", Contract()
MIN_CLASS_ROWS = 5
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Student:
    """What a night makes."""

    labels: tuple[str, ...]
    head: Head
    calibration: Calibration
    certificate: Certificate

    def answer(self, vectors: Vectors) -> tuple[list[str], Scores]:
        logits = apply_head(self.head, vectors)[0].astype(np.float64)
        near = np.clip((vectors @ self.head.prototypes.T).max(axis=1), -1.0, 1.0)
        scores = score_many(logits, near.astype(np.float64), self.calibration)
        return [self.labels[i] for i in logits.argmax(axis=1)], scores


class School:
    """Makes a student of a log."""

    def __init__(self, cache: VectorCache, seeds: list[Request], recipe: Recipe) -> None:
        self.cache, self.recipe = cache, recipe
        self.seed = tuple(
            Example(id=r.id, text=r.text, label=r.label, teacher=r.teacher) for r in seeds
        )

    def vectors(self, rows: tuple[Example, ...]) -> Vectors:
        return self.cache.vectors([row.text for row in rows])

    def teach(self, cloud: Cloud) -> Student:
        changes = last_changes(cloud.state, TASK)
        logged = from_log(cloud.log.scan(), uncertified_unbiased=True, changes=changes)
        folds = split((*self.seed, *logged), self.recipe.split)
        targets = [row.target for row in folds.train]
        labels = tuple(sorted({t for t in targets if targets.count(t) >= MIN_CLASS_ROWS}))
        train = tuple(row for row in folds.train if row.target in labels)
        index = np.array([labels.index(row.target) for row in train])
        head = fit_head(self.vectors(train), index, len(labels), recipe=HeadRecipe())
        return self.prove(Student(labels, head, Calibration(), certify([], [], CONTRACT)), folds)

    def prove(self, student: Student, folds: Folds) -> Student:
        """The same head with its calibration and certificate, each on rows of its own."""
        if not folds.calibration:
            return student
        vectors = self.vectors(folds.calibration)
        said, _ = student.answer(vectors)
        logits = apply_head(student.head, vectors)[0].astype(np.float64)
        near = (vectors @ student.head.prototypes.T).max(axis=1).astype(np.float64)
        agree = [a == row.target for a, row in zip(said, folds.calibration, strict=True)]
        calibration = fit_calibration(logits, near, agree)
        proved = Student(student.labels, student.head, calibration, student.certificate)
        rows = folds.certificate
        if not rows:
            return proved
        said, scores = proved.answer(self.vectors(rows))
        certificate = certify(
            scores.effective,
            [a == row.target for a, row in zip(said, rows, strict=True)],
            CONTRACT,
            reliable=[row.reliable for row in rows],
            new_label=[row.target not in student.labels for row in rows],
        )
        return Student(student.labels, student.head, calibration, certificate)


def publish(cloud: Cloud, student: Student, day: int) -> str:
    """Puts manifest and certificate where the watch looks for them."""
    certificate = encode_certificate(student.certificate)
    digest = hashlib.sha256(certificate).hexdigest()
    files = dict.fromkeys(REQUIRED, FileEntry(f"{day:064}", 1))
    files[CERTIFICATE] = FileEntry(digest, len(certificate))
    made = Manifest(task=TASK, labels=student.labels, files=files, max_tokens=64, vector_size=384)
    manifest = encode_manifest(made)
    cloud.published |= {digest: certificate, bundle_id(manifest): manifest}
    contracts = {TASK: CONTRACT}
    cloud.watch = ContractWatch(cloud.log, cloud.state, cloud, contracts, lambda: cloud.now_unix_s)
    return bundle_id(manifest)


def one_day(
    cloud: Cloud,
    student: Student,
    requests: list[Request],
    vectors: Vectors,
    day: int,
    options: argparse.Namespace,
) -> Tally:
    """A day's requests through policy, log and watch, check-in by check-in."""
    bundle, tally = publish(cloud, student, day), Tally()
    said, scores = student.answer(vectors)
    key = (1000 * options.rng + day).to_bytes(32, "big")
    calm = Policy.from_certificate(
        student.certificate, audit_rate=options.audit_rate, audit_key=key
    )
    policy = calm
    for places in seven.stretches(len(requests)):
        cloud.now_unix_s = seven.BEGIN_S + (day + 0.9 * places[0] / len(requests)) * seven.DAY_S
        if not options.unwatched:
            policy = calm.with_directive(check_in(cloud, bundle))
        if calm.certified and policy.revoked and tally.withdrawn_after is None:
            tally.withdrawn_after = places[0]
        rows = []
        for i in places:
            worth = Score(float(scores.confidence[i]), bool(scores.foreign[i]))
            decision = policy.decide(worth, requests[i].id)
            seven.count(tally, requests[i], decision, said[i], policy, foreign=worth.foreign)
            if decision.audit or decision.action is Action.ESCALATE:
                made = seven.record(requests[i], worth, decision, said[i], bundle, policy, cloud)
                rows.append(NewRow(made, requests[i].teacher))
        cloud.log.append(rows)
    return tally


def check_in(cloud: Cloud, bundle: str) -> Directive:
    while cloud.watch.step():
        pass
    cloud.advice.refresh()
    return cloud.advice.advise(Directive(), NodeStatus(task=TASK, bundle=bundle))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unwatched", action="store_true", help="without the live watch")
    parser.add_argument("--audit-rate", type=float, default=0.08)
    parser.add_argument("--rng", type=int, default=17)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "seven-cache"))
    options = parser.parse_args()
    seeds, days = seven.the_world(7, options.rng, options.cache)
    base = whole_base(find_base("minilm"), max_tokens=64)
    cache = VectorCache(options.cache / "seven-vectors.npz", lambda fresh: encode(base, fresh))
    school = School(cache, seeds, seven.the_recipe("head-only", 1))
    with tempfile.TemporaryDirectory(prefix="bench-contract-seven-") as folder:
        cloud = Cloud(Path(folder))
        head = "day|certified|withdrawn after|teacher calls|risk while certified|risk of the day|"
        head += "system accuracy|student agrees|classes|certificate rows|bound|new label bound"
        print(f"|{head}|\n|" + "---|" * (head.count("|") + 1))
        for day, requests in enumerate(days, start=1):
            student = school.teach(cloud)
            vectors = cache.vectors([row.text for row in requests])
            tally = one_day(cloud, student, requests, vectors, day, options)
            show(day, student, tally, seven.student_agrees(student.answer(vectors)[0], requests))


def show(day: int, student: Student, tally: Tally, agrees: float) -> None:
    size, proof = tally.requests, student.certificate
    cells = (
        day,
        proof.certified,
        tally.withdrawn_after,
        tally.calls / size,
        tally.certified_wrong / max(1, tally.certified),
        tally.wrong / size,
        tally.right / size,
        agrees,
        len(student.labels),
        proof.rows,
        proof.risk_upper_bound,
        proof.new_label_bound,
    )
    print("|" + "|".join(seven.cell(value) for value in cells) + "|", flush=True)


if __name__ == "__main__":
    main()
