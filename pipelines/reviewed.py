"""What people decided about a run's photos and names on the review page (`pipelines/review.py`), as stages take it.

Decisions are read once per session: whoever goes on reviewing meanwhile changes the next start, not this one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.run_tables import Run, per_run

if TYPE_CHECKING:
    from fgvr.arrays import Ids
    from fgvr.review.decisions import Decisions, PhotoDecision

log = logging.getLogger(__name__)

AUDITED = "audited photos"
"""What the report calls the images of an evaluation by people's decisions, where others have a split."""


@dataclass(frozen=True)
class Reviewed:
    """What may be learned from people, for the photos of this run.

    Attributes:
        names: image id → what the photo shows.
        not_names: image id → what it does not show.
        aliases: name → what it is called now; "" where it is no name.
        gone: decided photos that are not in the samples (any more).
        tested: decided photos of `evaluate.split`, from which nothing is learned.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    not_names: Mapping[int, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    gone: int = 0
    tested: int = 0

    @property
    def digest(self) -> str | None:
        """Of everything that changes a label; None where nothing does."""
        if not (self.names or self.not_names or self.aliases):
            return None
        facts = [sorted(self.names.items()), sorted(self.not_names.items()), sorted(self.aliases.items())]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def remarks(self) -> tuple[str, ...]:
        """What became of decisions that teach nothing."""
        said = []
        if self.gone:
            said.append(f"review: {self.gone:,} decided photos are not among this run's photos; they change nothing")
        if self.tested:
            said.append(
                f"review: {self.tested:,} decided photos belong to evaluate.split; nothing is learned from them, since "
                "methods are judged on them"
            )
        return tuple(said)


@per_run
def decisions_of(run: Run) -> Decisions:
    """What holds after all decisions in the run's folder; nothing where `label.reviewed` is false."""
    from fgvr.review.decisions import Decisions
    from fgvr.review.log import effective_decisions

    if not run.config.label.reviewed:
        return Decisions()
    found = effective_decisions(run.folder)
    if run.computes and (found.damaged or found.refused):
        log.warning(
            "review: %d lines of the decisions cannot be read, and %d decisions contradict others; the rest counts",
            len(found.damaged),
            len(found.refused),
        )
    return found


@per_run
def reviewed(run: Run) -> Reviewed:
    """The decisions that labels take; photos of an audit sample and those of `evaluate.split` are not among them."""
    import numpy as np

    from fgvr.review.decisions import Kind

    found = decisions_of(run)
    ours = {uri: each for uri, each in found.for_training.items() if each.kind is not Kind.CANNOT_TELL}
    if not ours:
        return Reviewed(aliases=found.aliases)
    there = located(run, ours)
    ids = np.array(sorted(there.values()), np.int64)
    samples = run.table("samples")
    splits = dict(zip(ids.tolist(), samples.take(ids, ["split"])["split"].to_pylist(), strict=True))
    tested = run.config.evaluate.split
    learned = {there[uri]: each for uri, each in ours.items() if uri in there and splits[there[uri]] != tested}
    return Reviewed(
        names=_one_spelling({image: each for image, each in learned.items() if each.name is not None}),
        not_names={image: each.not_name for image, each in learned.items() if each.not_name is not None},
        aliases=found.aliases,
        gone=len(ours) - len(there),
        tested=len(there) - len(learned),
    )


@per_run
def audited(run: Run) -> Mapping[int, str]:
    """Image id → what the photo shows, for photos of audit samples of which somebody said it."""
    found = decisions_of(run)
    names = {uri: found.photos[uri].name for uri in found.held_out if uri in found.photos and found.photos[uri].name}
    there = located(run, names)
    return {there[uri]: name for uri, name in names.items() if uri in there and name is not None}


def left_out(run: Run, split: str) -> tuple[str, ...]:
    """A remark on audited photos that count for no method, where audited photos are the images of the evaluation."""
    from fgvr.review.decisions import Kind

    if split != AUDITED:
        return ()
    found = decisions_of(run)
    wrong = sum(uri in found.photos and found.photos[uri].kind is Kind.WRONG for uri in found.held_out)
    if not wrong:
        return ()
    known = len(audited(run))
    return (
        f"{wrong:,} audited photos were called wrong without a right name and are left out, so scores flatter; were "
        f"a method wrong on all of them, its top-1 would be {known / (known + wrong):.2f} times what is shown. Say on "
        "the review page what they show",
    )


def located(run: Run, uris: Mapping[str, Any]) -> dict[str, int]:
    """URI → image id, of those that are in the samples: one pass over the table, a part at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not uris:
        return {}
    wanted, found = pa.array(list(uris)), dict[str, int]()
    for part in run.table("samples").batches(["image_id", "uri"]):
        rows = part.filter(pc.is_in(part["uri"], wanted))
        found.update(zip(rows["uri"].to_pylist(), rows["image_id"].to_pylist(), strict=True))
    return found


def true_names(run: Run, ids: Ids) -> list[str | None]:
    """The true name of each image [n]: its class, or what a person said in an audit; None where it is unknown."""
    from fgvr.evaluation.images import strings

    said = audited(run)
    classes: Sequence[str | None] = strings(run.table("samples").take(ids, ["class_name"])["class_name"]).tolist()
    return [name or said.get(image) for image, name in zip(ids.tolist(), classes, strict=True)]


def _one_spelling(decided: Mapping[int, PhotoDecision]) -> dict[int, str]:
    """The names, each in one spelling: that of the run where somebody called it right, else the first."""
    from fgvr.names.spelling import spelling_key
    from fgvr.review.decisions import Kind

    spellings: dict[str, str] = {}
    for each in sorted(decided.values(), key=lambda each: (each.kind is not Kind.RIGHT, each.at, each.decision)):
        spellings.setdefault(spelling_key(each.name or ""), each.name or "")
    return {image: spellings[spelling_key(each.name or "")] for image, each in sorted(decided.items())}
