"""candidates: a weighted candidate set of names per image. In: samples, labels, embeddings. Out: candidates.

    python pipelines/candidates.py --candidates.k 5 --candidates.weights multiplicity
    python pipelines/candidates.py --candidates.method adaptive

One row per discovery image: its nearest labelled images by CLIP similarity, itself first, and its candidate set, by
default the distinct labels of these images. An image whose own label failed gets the labels of its neighbours; one
without a vector has no neighbours and no candidates. The stage also estimates, without true labels, how many labels are
right and how pure the neighbourhoods are, which tells whether candidate sets can help.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr import storage
from fgvr.arrays import NONE
from fgvr.candidates.sets import CandidateSets, coverage
from pipelines.command import stage_main
from pipelines.duplicates import PHOTOS_FILE, SHARED
from pipelines.neighbours import Among, SearchStage
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    import numpy.typing as npt

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids, Labels
    from fgvr.candidates.agreement import Agreement
    from fgvr.config import Config
    from fgvr.neighbours import Neighbours, Size
    from fgvr.tables import Table


log = logging.getLogger(__name__)
ROWS_PER_PART = 65_536


class LabelNeighbours(SearchStage):
    """The nearest labelled images of every discovery image."""

    table = "neighbours"
    phase = "train"

    def reads(self, run: Run) -> Iterable[str]:
        """The labels, which decide the database, and the vectors."""
        return ("labels", "embeddings")

    def size(self, run: Run) -> Size:
        """All discovery images are queries; those with a label are the database."""
        from fgvr.neighbours import Size

        labels = run.table("labels")
        return Size(labels.rows, labels.rows - labels.failed, int(run.table("embeddings").extra["dim"]))

    def k(self, config: Config) -> int:
        """As many as the candidate sets or the estimates need, whichever is more."""
        from fgvr.candidates import agreement
        from fgvr.candidates.methods import most_neighbours

        return max(most_neighbours(config.candidates), 1 + agreement.NEIGHBOURS)

    def among(self, run: Run) -> Among:
        """Images with a label are the database; copies of one photo that share an answer count once."""
        ids, own = own_names(run.table("labels"))
        return Among(ids, own.first != NONE, photos_of(run.table("labels"), ids))


SEARCH = LabelNeighbours()


class Candidates(Stage):
    """The candidate sets of the discovery images."""

    table = "candidates"
    phase = "train"

    def reads(self, run: Run) -> Iterable[str]:
        """The images' own labels, the vectors, and the neighbour search where it is a stage of its own."""
        yield from ("samples", "labels", "embeddings")
        yield from SEARCH.names(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """How candidate sets are built, and how neighbours are found."""
        from fgvr.candidates.methods import RULES

        return {"candidates": run.config.candidates, "neighbours": SEARCH.decides(run), "rules": RULES}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Find neighbours, compute the estimates, build the candidate sets."""
        from fgvr.candidates.methods import candidate_sets, used_neighbours
        from fgvr.candidates.sets import candidate_rows
        from fgvr.names.label_space import read_label_space

        config, labels = run.config.candidates, run.table("labels")
        ids, own = own_names(labels)
        space = read_label_space(labels).labels
        found, embedded = SEARCH.find(run)
        agreement = agreement_of(found, own.first, config.k)
        log.info("candidates: %s", agreement.in_words())
        k = used_neighbours(config, agreement)
        sets = candidate_sets(config, found, own, embedded=embedded, space=len(space), agreement=agreement)
        near_ids = np.where(found.ids[:, :k] == NONE, NONE, ids[found.ids[:, :k]])
        summary = folder.write_table(candidate_rows(ids, near_ids, found.scores[:, :k], sets), ROWS_PER_PART)
        true_names = run.table("samples").take(ids, ["class_name"])["class_name"].to_pylist()
        summary.metrics = {
            "mean_candidates": float(sets.sizes[sets.sizes > 0].mean()) if sets.sizes.any() else 0.0,
            "without_candidates": float((sets.sizes == 0).sum()),
            "images_a_set": float(k),
            "recall": found.recall,
            **{name: value for name, value in asdict(agreement).items() if isinstance(value, float)},
            **against_truth(own.first, found.ids, sets, names=true_names, space=space, k=config.k),
        }
        summary.extra = {"labels": len(space), "search": found.facts, "agreement": asdict(agreement)}
        return summary


def own_names(labels: Table) -> tuple[Ids, CandidateSets]:
    """Ids of the discovery images, and the weighted names that the MLLM gave to each; empty where the label failed."""
    from fgvr.candidates.sets import OWN_COLUMNS, read_sets

    rows = labels.read(["image_id", *OWN_COLUMNS])
    return np.asarray(rows["image_id"].to_numpy(), dtype=np.int64), read_sets(rows, OWN_COLUMNS)


def photos_of(labels: Table, ids: Ids) -> Ids | None:
    """Row of the image whose answer each discovery image got, int64 [N]; None: every image has an answer of its own."""
    if not labels.extra.get(SHARED):
        return None
    asked = np.load(io.BytesIO(storage.read_bytes(labels.path(PHOTOS_FILE))))
    rows: Ids = np.searchsorted(ids, asked).astype(np.int64)
    return rows


def agreement_of(found: Neighbours, own: Labels, k: int) -> Agreement:
    """Estimates from the labels of the nearest images, for sets of size k, over images with a label and a vector."""
    from fgvr.candidates import agreement

    itself = found.ids[:, 0] == np.arange(len(own))
    return agreement.estimate(labels_of(found.ids[itself, : 1 + agreement.NEIGHBOURS], own), k)


def labels_of(neighbours: Ids, own: Labels) -> Labels:
    """The labels of neighbours that are given by row number; `NONE` where one is missing."""
    return np.where(neighbours == NONE, NONE, own[neighbours]).astype(np.int32)


def against_truth(
    own: Labels, near: Ids, sets: CandidateSets, *, names: Sequence[str | None], space: Sequence[str], k: int
) -> dict[str, float]:
    """The true values of what the stage estimates, for data with true names; empty for other data.

    Args:
        own: label id of each image, int32 [N]; `NONE` where it has none.
        near: row numbers of the nearest images, the image itself first, int64 [N, n]; `NONE` where one is missing.
        sets: candidate sets of all N images.
        names: their true names, None where unknown. Neighbours may share a class that no label names.
        space: the label space.
        k: size of the candidate sets, counting the image itself.
    """
    from fgvr.names.label_space import true_label_ids

    truth, classes = (
        true_label_ids(names, space),
        true_label_ids(names, sorted({name for name in names if name is not None})),
    )
    known = (truth != NONE) & (near[:, 0] != NONE)
    if not known.any():
        return {}
    others = near[known][:, 1 : max(k, 2)]
    same = (classes[others] == classes[known, None])[(others != NONE) & (classes[others] != NONE)]
    chosen = known & (sets.sizes > 0)
    return {
        "coverage": coverage(sets, np.where(known, truth, NONE)),
        "true_label_accuracy": float((own == truth)[known & (own != NONE)].mean()),
        **({"true_candidate_accuracy": _heaviest_right(sets, truth, chosen)} if chosen.any() else {}),
        **({"true_neighbour_precision": float(same.mean())} if same.size else {}),
    }


def _heaviest_right(sets: CandidateSets, truth: Labels, rows: npt.NDArray[np.bool_]) -> float:
    """Share of images whose heaviest candidate (the first among ties) is the true name."""
    heaviest = sets.label_ids[np.arange(len(sets)), sets.weights.argmax(axis=1)]
    return float((heaviest == truth)[rows].mean())


if __name__ == "__main__":
    stage_main(__doc__, "candidates")
