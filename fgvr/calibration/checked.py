"""What is known of calibration photos from outside: their right names, by an audit or by the data's true classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fgvr.calibration.promise import Flags
from fgvr.names.spelling import fold_name
from fgvr.review.audit_file import AuditSample
from fgvr.review.decisions import Decisions, Kind


@dataclass(frozen=True)
class Truth:
    """What a photo shows.

    Attributes:
        name: what it shows; None where nobody said, so that no name counts as right.
        decided: whether somebody decided about it.
    """

    name: str | None
    decided: bool = True


def audited(sample: AuditSample, decisions: Decisions) -> dict[str, Truth]:
    """What the photos of an audit show, by URI.

    All photos of the sample are there. Those about which nobody decided, nobody could tell, or that are only known to
    be something else have no name, so every prediction counts as wrong for them. That is on the safe side, and it makes
    early looks harmless: a promise that holds with some photos undecided holds when they are decided, too.
    """
    found: dict[str, Truth] = {}
    for photo in sample.photos:
        said = decisions.photos.get(photo.uri)
        if said is None or not said.certain:
            found[photo.uri] = Truth(None, decided=False)
        else:
            found[photo.uri] = Truth(None if said.kind in {Kind.CANNOT_TELL, Kind.WRONG} else said.name)
    return found


def matches(labels: Sequence[str], truths: Sequence[Truth], called: Mapping[str, str]) -> Flags:
    """Whether each predicted name is what its photo shows, bool [n].

    Names are equal after `fold_name`, and after the renames and merges of the review.

    Args:
        labels: predicted names.
        truths: of the same photos.
        called: name → what it is called now; "" where it is no name (`Decisions.aliases`).
    """
    folded: dict[str, str] = {}

    def key(name: str) -> str:
        now = called.get(name, name)
        return folded.setdefault(now, fold_name(now))

    return np.array(
        [
            bool(truth.name) and key(label) != "" and key(label) == key(truth.name or "")
            for label, truth in zip(labels, truths, strict=True)
        ],
        dtype=bool,
    )
