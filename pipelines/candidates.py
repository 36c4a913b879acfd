"""candidates: a weighted candidate set of names per image. In: samples, labels, embeddings. Out: candidates.

    python pipelines/candidates.py --candidates.k 5 --candidates.weights multiplicity
    python pipelines/candidates.py --candidates.method posterior

One row per discovery image: its nearest labelled images by CLIP similarity, itself first, and its candidate set, by
default the distinct labels of these images. An image whose own label failed gets the labels of its neighbours; one
without a vector has no neighbours and no candidates. The stage also asks labels that it holds out whether the sets do
better than own labels, and draws the photos at which a person would have to look to settle it (audit.csv).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr.arrays import NONE
from fgvr.candidates.sets import CandidateSets, coverage
from fgvr.config import ConfigError
from fgvr.config.vectors import has_texts
from pipelines.beliefs import (
    TextBelief,
    as_facts,
    compared_with_own,
    own_names,
    second_look,
    second_look_tables,
    settled_names,
    write_audit,
)
from pipelines.checked import CHECKED, checked_names
from pipelines.command import stage_main
from pipelines.duplicates import photos_of
from pipelines.embed import vectors_at
from pipelines.neighbours import Among, SearchStage
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    import numpy.typing as npt

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids, Labels
    from fgvr.beliefs.guard import Comparison, Flags
    from fgvr.candidates.agreement import Agreement
    from fgvr.config import Config
    from fgvr.neighbours import Neighbours, Size


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

    def check(self, config: Config) -> None:
        """Raise ConfigError for a posterior without a text tower."""
        vectors = config.embed.vectors
        if config.candidates.method == "posterior" and not has_texts(vectors):
            raise ConfigError(
                "candidates.method = posterior: it compares photos with names, and embed.vectors.kind = "
                f"{vectors.kind} has no text tower; set candidates.method to single (the own labels), or "
                "embed.vectors.kind to clip"
            )

    def reads(self, run: Run) -> Iterable[str]:
        """The images' own labels, the vectors, and the neighbour search where it is a stage of its own."""
        yield from ("samples", "labels", "embeddings")
        yield from second_look_tables(run.config)
        if run.config.candidates.method == "posterior":
            yield "space"
        yield from SEARCH.names(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """How candidate sets are built, and how neighbours are found."""
        from fgvr.candidates.methods import RULES

        config = run.config.candidates
        made: dict[str, Any] = config.deciding()
        if run.table("labels").extra.get(CHECKED):  # a set of one for each photo that a person has checked
            made["checked"] = "certain"
        # Newer fields count only where they are used, so that tables of earlier versions are still found.
        if not made.pop("guard"):
            return {"candidates": made, "neighbours": SEARCH.decides(run), "rules": RULES} | _of_texts(run)
        from fgvr.beliefs import guard

        made["guard"] = guard.RULES
        return {"candidates": made, "neighbours": SEARCH.decides(run), "rules": RULES} | _of_texts(run)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Find neighbours, build the candidate sets, compare them with own labels."""
        from fgvr.candidates.methods import estimate_of, used_neighbours
        from fgvr.candidates.sets import candidate_rows
        from fgvr.names.label_space import read_label_space

        config, labels, samples = run.config.candidates, run.table("labels"), run.table("samples")
        ids, own = settled_names(labels, second_look(run))
        space = read_label_space(labels).labels
        found, embedded = SEARCH.find(run)
        agreement = estimate_of(found, own.first, config.k)
        log.info("candidates: %s", agreement.in_words())
        made = _Made.of(run, found, own, embedded, agreement)
        checked = np.where(embedded, checked_names(labels, ids, own.first), NONE).astype(np.int32)
        made = replace(made, sets=made.sets.certain(checked))
        k = used_neighbours(config, agreement)
        near_ids = np.where(found.ids[:, :k] == NONE, NONE, ids[found.ids[:, :k]])
        summary = folder.write_table(candidate_rows(ids, near_ids, found.scores[:, :k], made.sets), ROWS_PER_PART)
        true_names = samples.take(ids, ["class_name"])["class_name"].to_pylist()
        sizes = made.sets.sizes
        summary.metrics = {
            "mean_candidates": float(sizes[sizes > 0].mean()) if sizes.any() else 0.0,
            "without_candidates": float((sizes == 0).sum()),
            "images_a_set": float(k),
            "recall": found.recall,
            **{name: value for name, value in asdict(agreement).items() if isinstance(value, float)},
            **({} if made.believed is None else {"believed_label_accuracy": made.believed}),
            **against_truth(own.first, found.ids, made.sets, names=true_names, space=space, k=config.k),
        }
        summary.extra = {"labels": len(space), "search": found.facts, "agreement": asdict(agreement)}
        if made.compared is not None:
            audit = write_audit(run, folder, made.compared, ids=ids, own=own.first, space=space)
            summary.extra["guard"] = as_facts(made.compared)
            summary.metrics |= {"guard_z": made.compared.verdict.z, "audit_photos": float(audit)}
        summary.extra["used"] = made.used
        return summary


def _of_texts(run: Run) -> dict[str, Any]:
    """What decides the names' vectors, where they are used."""
    if run.config.candidates.method != "posterior":
        return {}
    from fgvr.beliefs import posterior
    from fgvr.clip.source import find_clip

    clip = vectors_at(run.config)
    return {"texts": {"clip": find_clip(clip).identity(), "template": clip.template, "rules": posterior.RULES}}


@dataclass(frozen=True)
class _Made:
    """The candidate sets, and what was found out about them.

    Attributes:
        sets: of all N discovery images.
        used: the method that made them: the configured one, or `single` where the guard has fallen back.
        compared: with own labels; None for methods of which nothing could be learned by it.
        believed: share of own labels that the posterior believes.
    """

    sets: CandidateSets
    used: str
    compared: Comparison | None = None
    believed: float | None = None

    @classmethod
    def of(cls, run: Run, found: Neighbours, own: CandidateSets, embedded: Flags, agreement: Agreement) -> _Made:
        """Make the sets by the configured method, and ask the guard."""
        from fgvr.candidates.methods import candidate_sets, held_out_sets
        from fgvr.candidates.sets import single_sets
        from fgvr.names.label_space import read_label_space
        from fgvr.neighbours.discovery import discovery_vectors

        config, space = run.config.candidates, read_label_space(run.table("labels")).labels
        if config.method == "posterior":
            vectors, _ = discovery_vectors(run.table("embeddings"), own_names(run.table("labels"))[0])
            belief = TextBelief(run, own, space, embedded, vectors)
            sets, believed = belief.sets()
        else:
            belief, believed = None, None
            sets = candidate_sets(config, found, own, embedded=embedded, space=len(space), agreement=agreement)
        if config.method in {"single", "random"}:  # nothing to compare; sets that are random by intention
            return cls(sets, config.method)

        def sets_of(known: Flags) -> CandidateSets:
            if belief is not None:
                return belief.sets(known)[0]
            return held_out_sets(config, found, own, known, space=len(space))

        compared = compared_with_own(run, own.first, embedded, len(space), sets_of)
        none = f"no verdict on candidate sets: {agreement.singular}" if agreement.singular else ""
        log.info("candidates: %s", none or compared.verdict.in_words())
        if config.guard and (agreement.singular or compared.verdict.decision != "sets"):
            why = f": {agreement.singular}, so that held-out labels decide nothing" if agreement.singular else ""
            log.warning("candidates: the guard keeps the own labels (candidates.guard)%s", why)
            return cls(single_sets(own.first).only(embedded), "single", compared, believed)
        return cls(sets, config.method, compared, believed)


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
