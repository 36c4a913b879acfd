"""candidates: labels of the nearest images become candidate sets. In: samples, labels, embeddings. Out: candidates.

    python pipelines/candidates.py --candidates.k 5 --candidates.weights multiplicity

One row a discovery image: its nearest labelled images by CLIP similarity, itself first, and their distinct labels
with initial weights. An image whose own label failed gets its neighbours' labels; one without a vector has no
neighbours and no candidates. Also estimated, without any true label: how many labels are right, and how pure the
neighbourhoods are, which says whether candidate sets can help.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import label_agreement, storage
from fgvr.candidate_table import candidate_rows
from fgvr.candidates import NONE, CandidateSets, coverage, neighbour_sets, random_sets, single_sets
from fgvr.config import Candidates
from fgvr.embeddings import read_vectors
from fgvr.label_truth import NOT_IN_SPACE, true_label_ids
from fgvr.mllm.label_space import LabelSpace
from fgvr.neighbours import Neighbours, nearest
from fgvr.tables import Table
from pipelines.flow import stage_main

Ids = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
ROWS_PER_PART = 65_536


def run(context: RunContext, samples: Table, labels: Table, embeddings: Table) -> Table:
    """The candidate sets of the discovery images."""
    config = context.config.candidates

    def compute(folder: StageFolder) -> StageSummary:
        ids, own = own_labels(labels)
        space = LabelSpace.from_json(storage.read_bytes(labels.path("label_space.json"))).labels
        vectors, embedded = read_vectors(embeddings, ids)
        found = labelled_neighbours(vectors, embedded, own, max(config.k, 1 + label_agreement.NEIGHBOURS))
        sets = candidate_sets(config, found, own, embedded, len(space))
        near = found.ids[:, : config.k]
        near_ids = np.where(near == NONE, NONE, ids[near])
        summary = folder.write_table(candidate_rows(ids, near_ids, found.scores[:, : config.k], sets), ROWS_PER_PART)
        labelled = embedded & (own != NONE)
        agreement = label_agreement.estimate(labels_of(found.ids[labelled], own), config.k)
        names = samples.take(ids, ["class_name"])["class_name"].to_pylist()
        truth = true_label_ids(names, space)
        summary.metrics = {
            "mean_candidates": float(sets.sizes[sets.sizes > 0].mean()) if sets.sizes.any() else 0.0,
            "without_candidates": float((sets.sizes == 0).sum()),
            "recall": found.recall,
            **{name: value for name, value in asdict(agreement).items() if value is not None},
            **_against_truth(own, found.ids, sets, truth, config.k),
        }
        summary.extra = {"labels": len(space), "search": found.method, "agreement": asdict(agreement)}
        return summary

    return context.stage("candidates", decides=config, inputs=[samples, labels, embeddings], compute=compute)


def own_labels(labels: Table) -> tuple[Ids, Labels]:
    """Ids of the discovery images and their labels, `NONE` where the label failed."""
    rows = labels.read(["image_id", "label_id"])
    own = rows["label_id"].fill_null(NONE).to_numpy().astype(np.int32)
    return np.asarray(rows["image_id"].to_numpy(), dtype=np.int64), own


def labelled_neighbours(
    vectors: npt.NDArray[np.float16], embedded: npt.NDArray[np.bool_], own: Labels, k: int
) -> Neighbours:
    """The k nearest labelled images of each, as row numbers of the discovery set; itself first if it has a label."""
    database = np.flatnonzero(embedded & (own != NONE))
    queries = np.flatnonzero(embedded)
    place = np.full(len(own), NONE, np.int64)
    place[database] = np.arange(len(database))
    threads = len(os.sched_getaffinity(0))
    found = nearest(vectors[queries], vectors[database], k, own=place[queries], threads=threads)
    ids = np.full((len(own), k), NONE, np.int64)
    scores = np.full((len(own), k), -np.inf, np.float32)
    ids[queries] = np.where(found.ids == NONE, NONE, database[found.ids] if len(database) else NONE)
    scores[queries] = found.scores
    return Neighbours(ids, scores, found.method, found.recall)


def labels_of(neighbours: Ids, own: Labels) -> Labels:
    """The labels of neighbours given by row number, `NONE` where there is none."""
    return np.where(neighbours == NONE, NONE, own[neighbours]).astype(np.int32)


def _against_truth(own: Labels, near: Ids, sets: CandidateSets, truth: Labels, k: int) -> dict[str, float]:
    """What the estimates should have said, for data whose true names are known; empty for other data."""
    known = (truth != NONE) & (near[:, 0] != NONE)
    if not known.any():
        return {}
    others = near[known][:, 1:k]
    same = (truth[others] == truth[known, None])[(others != NONE) & (truth[known, None] != NOT_IN_SPACE)]
    return {
        "coverage": coverage(sets, np.where(known, truth, NONE)),
        "true_label_accuracy": float((own == truth)[known & (own != NONE)].mean()),
        **({"true_neighbour_precision": float(same.mean())} if same.size else {}),
    }


def candidate_sets(
    config: Candidates, found: Neighbours, own: Labels, embedded: npt.NDArray[np.bool_], space: int
) -> CandidateSets:
    """The candidate sets of all discovery images; empty for images without a vector, which cannot be learned from."""
    near, scores = found.ids[:, : config.k], found.scores[:, : config.k]
    make: dict[str, Callable[[], CandidateSets]] = {
        "neighbours": lambda: neighbour_sets(labels_of(near, own), scores, config.weights),
        "random": lambda: random_sets(own, space, config.k, config.seed),
        "single": lambda: single_sets(own),
    }
    sets = make[config.method]()
    return CandidateSets(
        np.where(embedded[:, None], sets.label_ids, NONE).astype(np.int32),
        np.where(embedded[:, None], sets.weights, 0.0).astype(np.float32),
    )


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.candidates)
