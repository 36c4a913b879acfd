"""What stages that judge labels share: whitened vectors of the discovery images, vectors of names, the guard."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr.arrays import NONE
from fgvr.errors import UserError
from pipelines.checked import checked_names
from pipelines.duplicates import photos_of
from pipelines.embed import vectors_at

if TYPE_CHECKING:
    from cluster.stage import StageFolder
    from fgvr.arrays import Floats, Ids, Labels
    from fgvr.beliefs.guard import Comparison, Flags
    from fgvr.beliefs.posterior import Posterior
    from fgvr.candidates.sets import CandidateSets
    from fgvr.config import Config
    from fgvr.neighbours import Vectors
    from fgvr.tables import Table
    from pipelines.run_tables import Run

log = logging.getLogger(__name__)

AUDIT_FILE = "audit.csv"
GUARD_ANCHORS = 2_000
"""Images whose neighbours whiten the space of the guard: a comparison needs no better space, and this one is made in
every run."""
GUARD_IMAGES = 60_000
"""Images that are compared at most; more would not change the verdict, and their vectors are held in memory."""
MOST_BELIEVED = 1_000_000
"""Images whose posterior is computed at once in the driver's memory: some 10 GB with vectors of 512 numbers."""


def own_names(labels: Table) -> tuple[Ids, CandidateSets]:
    """Ids of the discovery images, and the weighted names that the MLLM gave to each; empty where the label failed."""
    from fgvr.candidates.sets import OWN_COLUMNS, read_sets

    rows = labels.read(["image_id", *OWN_COLUMNS])
    return np.asarray(rows["image_id"].to_numpy(), dtype=np.int64), read_sets(rows, OWN_COLUMNS)


def second_look_tables(config: Config) -> tuple[str, ...]:
    """The table of what was asked again (`label.reask`), where somebody was asked."""
    return ("reasked",) if config.label.reask else ()


def second_look(run: Run) -> Table | None:
    """That table; None where nobody was asked."""
    return next((run.table(name) for name in second_look_tables(run.config)), None)


def settled_names(labels: Table, reasked: Table | None) -> tuple[Ids, CandidateSets]:
    """As `own_names`, with the names that a second look has put in the place of others (`label.reask`).

    Images that share an answer (`label.duplicate_similarity`) share its replacement.

    Args:
        labels: the labels.
        reasked: as `second_look` gives it.
    """
    from fgvr.candidates.sets import CandidateSets
    from fgvr.names.label_space import read_label_space

    ids, names = own_names(labels)
    if reasked is None:
        return ids, names
    rows = [row for row in reasked.read(["image_id", "chosen", "replaced"]).to_pylist() if row["replaced"]]
    numbers = {name: number for number, name in enumerate(read_label_space(labels).labels)}
    places = np.searchsorted(ids, np.array([row["image_id"] for row in rows], dtype=np.int64))
    chosen = np.full(len(ids), NONE, np.int32)
    chosen[places] = [numbers[row["chosen"]] for row in rows]
    if (photos := photos_of(labels, ids)) is not None:  # copies had the answer of one of them, so its mistake, too
        of_photo = np.full(len(ids), NONE, np.int32)
        of_photo[photos[places]] = chosen[places]
        chosen = np.where(checked_names(labels, ids, names.first) == NONE, of_photo[photos], NONE)
    new = chosen != NONE
    label_ids, weights = names.label_ids.copy(), names.weights.copy()
    label_ids[new], weights[new] = NONE, 0.0
    label_ids[new, 0], weights[new, 0] = chosen[new], 1.0
    log.info("%s labels were replaced after a second look (table reasked)", f"{int(new.sum()):,}")
    return ids, CandidateSets(label_ids, weights)


def in_space(run: Run, vectors: Vectors) -> Floats:
    """Vectors [n, d] in the run's whitened space, float32 [n, d]."""
    from pipelines.selection import read_whitening

    return read_whitening(run.table("space")).apply(vectors)


def text_vectors(run: Run, names: Sequence[str]) -> tuple[Floats, float]:
    """CLIP vectors of names in the configured template, float32 [V, d], and the model's logit scale."""
    from fgvr.clip.model import load_clip
    from fgvr.models.near import zero_shot_classes

    clip = vectors_at(run.config)
    classes = zero_shot_classes(load_clip(clip), names, clip.template)
    return classes.features, classes.logit_scale


class TooManyImages(UserError):
    """More images than the driver can hold."""


class TextBelief:
    """The posterior of the discovery images, with all labels or with some of them held out.

    Copies of a photo that share an answer count once, since they would vouch for each other's label.
    """

    def __init__(self, run: Run, names: CandidateSets, space: Sequence[str], embedded: Flags, vectors: Vectors) -> None:
        """`vectors`: the images' vectors, [N, d]; `names`: what the MLLM gave them; `space`: the label space.

        Raises:
            TooManyImages: see `MOST_BELIEVED`.
        """
        if len(embedded) > MOST_BELIEVED:
            raise TooManyImages(
                f"candidates.method = posterior: {len(embedded):,} labelled images, of which it takes at most "
                f"{MOST_BELIEVED:,} at once; lower label.images.max_images, or set candidates.method to single"
            )
        labels = run.table("labels")
        ids = own_names(labels)[0]
        checked = checked_names(labels, ids, names.first)
        self._there = np.flatnonzero(embedded)
        self._rows, self._places = one_per_photo(self._there, names.first, checked, photos_of(labels, ids))
        self._names, self._checked = names, checked[self._rows]
        self._images = vectors[self._rows].astype(np.float32)
        self._texts, self._scale = text_vectors(run, space)
        self._whitened = in_space(run, self._images)

    def sets(self, known: Flags | None = None) -> tuple[CandidateSets, float | None]:
        """The candidate sets of all N images, and the share of own labels that they believe.

        `known`, bool [N]: the images whose labels are known; None: all.
        """
        from fgvr.beliefs.posterior import text_posterior
        from fgvr.candidates.sets import CandidateSets

        given = (self._names if known is None else self._names.only(known)).label_ids[self._rows]
        checked = self._checked
        if known is not None:
            checked = np.where(known[self._rows], checked, NONE).astype(np.int32)
        # What a person has said is no answer of the model, and says nothing of how often that is right.
        answered = np.where(checked == NONE, given[:, 0], NONE).astype(np.int32)
        found: Posterior = text_posterior(
            answered,
            self._images,
            self._texts,
            self._whitened,
            scale=self._scale,
            listed=given,
            checked=checked,
        )
        some = found.sets()
        labels = np.full((len(self._names), some.label_ids.shape[1]), NONE, np.int32)
        weights = np.zeros(labels.shape, np.float32)
        labels[self._there], weights[self._there] = some.label_ids[self._places], some.weights[self._places]
        return CandidateSets(labels, weights), found.label_accuracy


def one_per_photo(there: Ids, own: Labels, checked: Labels, photos: Ids | None) -> tuple[Ids, Ids]:
    """One image of each photo: a checked one, else one with a label, else the first.

    Args:
        there: rows of the images to choose from, int64 [n], ascending.
        own: labels of all N images, int32 [N]; `NONE` where there is none.
        checked: names that a person gave, int32 [N]; `NONE` where nobody has looked.
        photos: number of the photo that each image shows, int64 [N]; None: each is a photo of its own.

    Returns:
        The chosen rows, int64 [m], and for each of `there` the place of its photo among them, int64 [n].
    """
    if photos is None:
        return there, np.arange(len(there))
    order = np.lexsort((there, own[there] == NONE, checked[there] == NONE))
    _, first, photo = np.unique(photos[there][order], return_index=True, return_inverse=True)
    places = np.empty(len(there), np.int64)
    places[order] = photo
    return there[order[first]], places


def compared_with_own(
    run: Run, own: Labels, embedded: Flags, names: int, sets_of: Callable[[Flags], CandidateSets]
) -> Comparison:
    """Candidate sets against own labels, on labels that are held out (`fgvr.beliefs.guard`).

    Of very many images a random sample is compared; its sets are still made of all neighbours. Of copies that share an
    answer one is compared, and held out with all others: it would find its label in them.

    Args:
        run: the run, for the vectors of the discovery images.
        own: label of each of the N discovery images, int32 [N]; `NONE` where it has none.
        embedded: bool [N], has a vector.
        names: size of the label space.
        sets_of: makes the sets of all N images, if only the labels of those in its argument, bool [N], are known.
    """
    from fgvr.beliefs.guard import compared
    from fgvr.candidates.sets import CandidateSets
    from fgvr.neighbours.discovery import discovery_vectors
    from fgvr.selection.whitening import fit_whitening

    labels = run.table("labels")
    ids = own_names(labels)[0]
    photos = photos_of(labels, ids)
    rows = one_per_photo(np.flatnonzero(embedded & (own != NONE)), own, np.full(len(own), NONE, np.int32), photos)[0]
    rows = np.sort(np.random.default_rng(0).permutation(np.sort(rows))[:GUARD_IMAGES])
    vectors, there = discovery_vectors(run.table("embeddings"), ids[rows])

    def sets_of_sample(known: Flags) -> CandidateSets:
        all_known = embedded.copy()
        if photos is None:
            all_known[rows] = known
        else:
            of_photo = np.ones(len(own), bool)
            of_photo[photos[rows]] = known
            all_known &= of_photo[photos]
        sets = sets_of(all_known)
        return CandidateSets(sets.label_ids[rows], sets.weights[rows])

    # A space of its own, made of few anchors: the table `space` would be one more that every run waits for.
    white = np.zeros(vectors.shape, np.float32)
    if there.any():
        white[there] = fit_whitening(vectors[there], anchors=GUARD_ANCHORS).apply(vectors[there])
    found = compared(own[rows], white, names, sets_of_sample)
    return replace(found, rows=rows[found.rows])


def write_audit(
    run: Run, folder: StageFolder, found: Comparison, *, ids: Ids, own: Labels, space: Sequence[str]
) -> int:
    """Write the photos that a person should look at to settle the comparison; returns how many there are.

    Columns: the photo, what it was called, what the two heads call it, and an empty one for what it is.
    """
    places = found.to_audit
    rows = found.rows[places]
    uris = run.table("samples").take(ids[rows], ["uri"])["uri"].to_pylist()
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["image_id", "uri", "label", "by_own_labels", "by_sets", "right_name"])
    for uri, row, one, other in zip(uris, rows, found.own_names[places], found.sets_names[places], strict=True):
        writer.writerow([ids[row], uri, space[own[row]], space[one], space[other], ""])
    if len(rows):
        folder.write_bytes(AUDIT_FILE, content.getvalue().encode())
    return len(rows)


def as_facts(found: Comparison) -> dict[str, Any]:
    """The verdict as JSON types, for a table's metadata."""
    return asdict(found.verdict)
