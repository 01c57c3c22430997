"""The quick way: head, prototypes and calibration in seconds; the encoder's bytes stay.

Because files are addressed by content, an edge that has the champion fetches kilobytes. The refresh
goes through the same certificate and the same gate as a night.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy.distill_loop import examining, harvest, proving
from understudy.distill_loop.gate import Ruling, Verdict
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.publish import Publish, offer
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.types.bundle import ENCODER, TOKENIZER
from understudy.types.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult:
    """What came of a refresh.

    Attributes:
        ruling: What the gate said.
        bundle: Id of the bundle to use from now on.
        directory: Where it lies.
        made: Where the bundle with the new head lies, shipped or not.
        new_labels: Classes the head learned tonight.
        verdict: Every check of the gate.
        rows: Rows by what became of them.
        shipped_bytes: Bytes of the files that differ from the champion's, manifest included.
        seconds: Wall time.
    """

    ruling: Ruling
    bundle: str
    directory: Path
    made: Path
    new_labels: tuple[str, ...]
    verdict: Verdict
    rows: Mapping[str, int]
    shipped_bytes: int
    seconds: float

    @property
    def promoted(self) -> bool:
        """True if the new head ships."""
        return self.ruling is Ruling.PROMOTE


def refresh_head(
    recipe: Recipe,
    workspace: Workspace,
    sources: Sources,
    *,
    publish: Publish | None = None,
) -> RefreshResult:
    """Fits a new head on the champion's encoder; classes may be added.

    Args:
        recipe: Its sections data, split, head, contract and gate count.
        workspace: Where to keep the bundle; no night may run there meanwhile.
        sources: Rows, and the champion.
        publish: As in `run_night`.

    Raises:
        DataError: If there is no champion, or nothing to learn from.
    """
    if sources.champion is None:
        raise DataError("a refresh needs a champion: run a first night")
    start = time.perf_counter()
    with workspace.lock():
        night = Night(recipe, workspace, sources)
        folds = harvest.deal(night, harvest.collect(night))
        start_head = night.champion.head if night.champion is not None else None
        blank = proving.champion_blank(night, folds)
        proved = proving.prove(night, blank, folds, start_head)
        verdict = examining.examine(night, proved, folds)
        made = proving.write(night, proved, folds)
        chosen, _ = proving.choose(night, made, verdict, folds)
        bundle = read_bundle(chosen)
        offer(bundle.id, chosen, night.champion_id, publish, note="head refresh")
        harvest.keep_buffer(night)
        workspace.mark("refresh", night.now_unix_s)
    return RefreshResult(
        ruling=verdict.ruling,
        bundle=bundle.id,
        directory=chosen,
        made=made,
        new_labels=tuple(n for n in proved.candidate.labels if n not in night.champion_labels),
        verdict=verdict,
        rows=night.counts,
        shipped_bytes=shipped_bytes(sources.champion, made),
        seconds=time.perf_counter() - start,
    )


def shipped_bytes(champion: Path, bundle: Path) -> int:
    """Bytes an edge that has the champion must fetch for the other bundle."""
    old = {entry.sha256 for entry in read_bundle(champion).manifest.files.values()}
    new = read_bundle(bundle).manifest.files.values()
    manifest = (bundle / "manifest.json").stat().st_size
    return manifest + sum(entry.size for entry in new if entry.sha256 not in old)


UNCHANGED = (ENCODER, TOKENIZER)
"""Files a refresh never touches."""
