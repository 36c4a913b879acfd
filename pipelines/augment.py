"""augment: generate further pictures of rare names, and filter them. In: samples, names of photos. Out: synthetic.

    python pipelines/augment.py --augment.generator.model ~/sd15 --augment.generator.controlnet ~/canny
    python pipelines/augment.py --augment.generator.kind drawn

For each photo of a name that fewer than `augment.below` photos teach, `augment.per_image` pictures with its edges and
a prompt with its name. One row per picture, with its bytes, prompt, seed and scores; a picture that the filters reject
is a row with the reason, one that could not be made a row with the error. With `augment.alpha` above 0 students see
kept pictures in place of their photos (SaSPA; docs/augment.md). Diffusion models need the extra `augment` (diffusers);
the kind `drawn` draws birds of the field guide.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr import storage
from fgvr.config import Config, ConfigError
from pipelines.asks import Work, class_count
from pipelines.command import stage_main
from pipelines.embed import encoder_at, vectors_at
from pipelines.run_tables import Run, per_run
from pipelines.selection import read_whitening
from pipelines.stage import Phase, RowJob, RowStage
from pipelines.student_images import consulted, learned, learned_rows, learns_names, namer
from pipelines.student_task import class_names
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids

log = logging.getLogger(__name__)

CLASSIFIER_FOLDER = "classifier"
"""Prototypes of the true classes, beside the table."""
MANY = 0.9
"""Share of rejected pictures from which a remark is made."""


@dataclass(frozen=True)
class Sources:
    """The photos of rare names.

    Attributes:
        ids: their image ids, int64 [S], ascending.
        classes: of each, int64 [S].
        all_ids: image ids of all photos that students learn from, int64 [N], ascending.
        all_classes: of each, int64 [N]; −1 without one.
    """

    ids: Ids
    classes: Ids
    all_ids: Ids
    all_classes: Ids


class Synthetic(RowStage):
    """Generated pictures of rare names, one row per picture, rejected ones with the reason."""

    table = "synthetic"
    phase: ClassVar[Phase | None] = "train"

    def wanted(self, config: Config) -> bool:
        """Needed where students see such pictures."""
        return config.augment.alpha > 0

    def check(self, config: Config) -> None:
        """Find the generator and CLIP without loading them; raises a UserError."""
        from fgvr.augment.generators import check_generator
        from fgvr.clip.source import check_clip_weights, find_clip

        check_generator(config.augment.generator)
        find_clip(config.clip)
        check_clip_weights(config.clip)
        if config.embed.vectors.made_up and config.augment.ranked_by == "run" and config.augment.top_k is not None:
            raise ConfigError(
                "augment.ranked_by = run: made-up vectors (embed.vectors.kind simulated) rank nothing; set it to "
                "zero_shot, or take vectors of an encoder"
            )

    def workers(self, config: Config) -> str | None:
        """Workers of its own, which generate and judge."""
        return "augment.workers"

    def consults(self, run: Run) -> Iterable[str]:
        """What decides the photos and the names of their classes."""
        yield from consulted(run)
        if learns_names(run.config, run.photos):
            yield namer(run.config)

    def reads(self, run: Run) -> Iterable[str]:
        """The photos, who says what they show, and what ranks the names."""
        yield "samples"
        named, ranked = learns_names(run.config, run.photos), _ranked_by_run(run.config)
        if named:
            yield "pool"
            if ranked:
                yield namer(run.config)
        elif ranked:
            yield "embeddings"
            if run.config.heads.whiten:
                yield "space"

    def recipe(self, run: Run) -> dict[str, Any]:
        """The photos with their names, how pictures are made, and how they are judged."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.augment.filters import RULES
        from fgvr.augment.generators import MAKING, generator_identity
        from fgvr.clip.source import find_clip
        from fgvr.precision import of_workers

        config, sources = run.config.augment, _sources(run)
        names = class_names(run)
        return {
            "making": MAKING,
            "rules": RULES,
            "generator": generator_identity(config.generator),
            "ids": digest_of_ids(sources.ids),
            "names": [names[number] for number in sorted(set(sources.classes.tolist()))],
            "classes": digest_of_ids(sources.classes),
            "per_image": config.per_image,
            "prompts": config.prompts,
            "seed": config.seed,
            "basic_prompt": config.basic_prompt,
            "negatives": config.negatives,
            "top_k": config.top_k,
            "clip": find_clip(vectors_at(run.config)).identity(),
            **_ranking(run),
            "precision": of_workers(config.workers),
            "limits": run.config.ingest.limits,
        }

    def works(self, run: Run) -> Work:
        """At most the pictures of all photos, or of as many as rare names can have."""
        config = run.config.augment
        photos = learned(run.config, run.photos)
        if not learns_names(run.config, run.photos):
            counts = run.photos.classes.get(run.config.makd.split, {}).values()
            photos = min(photos, sum(count for count in counts if count < config.below))
        classes, _ = class_count(run.config, run.photos)
        return Work(min(photos, classes * (config.below - 1)) * config.per_image)

    def job(self, run: Run) -> RowJob:
        """One row per picture."""
        import numpy as np

        from fgvr.augment.generators import pinned_generator
        from fgvr.augment.sources import COLUMNS, SyntheticRows
        from fgvr.augment.worker import AugmentWorker, JudgeSettings
        from fgvr.schemas import SYNTHETIC

        config, sources = run.config.augment, _sources(run)
        rows = SyntheticRows(
            run.table("samples"),
            sources.ids,
            sources.classes,
            class_names(run),
            config.prompts,
            config.per_image,
            config.seed,
        )
        judging = JudgeSettings(
            vectors_at(run.config), config.basic_prompt, config.negatives, config.top_k, class_names(run)
        )
        arguments = {
            "generator": pinned_generator(config.generator),
            "judging": judging,
            "limits": run.config.ingest.limits,
            "batch_images": config.batch_images,
            "device": config.workers.device,
            "threads": max(2, int(config.workers.num_cpus)),
        }
        return RowJob(np.arange(len(rows), dtype=np.int64), AugmentWorker, arguments, SYNTHETIC, COLUMNS, rows)

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """The precision of the table's first parts, and the classifier that ranks the names."""
        from dataclasses import replace

        from cluster.settled import settled_precision

        workers = run.config.augment.workers
        judging = self.job(run).arguments["judging"]
        return {
            "precision": settled_precision(folder, workers) if workers.num_gpus else None,
            "judging": replace(judging, classifier=_classifier(run, folder)),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Generate and judge, or say that no name is rare."""
        from fgvr.schemas import SYNTHETIC

        config, sources = run.config.augment, _sources(run)
        if not len(sources.ids):
            summary = folder.write_table(SYNTHETIC.empty_table())
            summary.remarks = (
                f"no name has fewer than augment.below = {config.below} photos to learn from: nothing is generated",
            )
        else:
            log.info("synthetic: %s", _in_words(sources, config.per_image))
            summary = super().compute(run, folder)
            _count(folder.uri, summary, len(set(sources.classes.tolist())))
            summary.remarks = (*summary.remarks, *_remarks(summary, config.top_k, len(class_names(run))))
        return summary


def _in_words(sources: Sources, per_image: int) -> str:
    names = len(set(sources.classes.tolist()))
    return f"{per_image * len(sources.ids):,} pictures of {len(sources.ids):,} photos of {names:,} rare names"


def _ranked_by_run(config: Config) -> bool:
    """Whether a classifier of this run ranks the names: not where the encoder of its vectors is unknown."""
    if config.augment.ranked_by == "zero_shot" or config.augment.top_k is None:
        return False
    try:
        encoder_at(config)
    except ConfigError:
        return False
    return True


def _ranking(run: Run) -> dict[str, Any]:
    """What decides the ranks beside the input tables."""
    if _ranked_by_run(run.config):
        return {"ranked_by": "run"}
    if run.config.augment.top_k is None:
        return {"ranked_by": None}
    return {"ranked_by": "zero_shot", "template": run.config.clip.template, "all_names": class_names(run)}


def _classifier(run: Run, folder: StageFolder) -> str | None:
    """Folder of the classifier that ranks the names; of true classes it is made here. None: CLIP without training."""
    if not _ranked_by_run(run.config):
        return None
    if learns_names(run.config, run.photos):
        return run.table(namer(run.config)).path(MODEL_FOLDER)
    from fgvr.clip.vectors import read_vectors
    from fgvr.heads.training import HeadError
    from fgvr.models.head import HeadModel
    from fgvr.models.learned_head import learn_prototypes

    sources, whiten = _sources(run), run.config.heads.whiten
    vectors, _ = read_vectors(run.table("embeddings"), sources.all_ids)
    whitening = read_whitening(run.table("space")) if whiten else None
    try:
        learned_from = learn_prototypes(vectors, sources.all_classes, class_names(run), whitening)
    except HeadError:
        raise ConfigError(
            f"augment.ranked_by = run: no photo of {run.config.makd.split} with a true class has a vector; add the "
            "split to embed.splits, or set augment.ranked_by to zero_shot"
        ) from None
    with tempfile.TemporaryDirectory() as place:
        HeadModel(learned_from.classes, encoder_at(run.config)).save(Path(place, MODEL_FOLDER))
        storage.put_folder(Path(place, MODEL_FOLDER), folder.path(CLASSIFIER_FOLDER))
    return folder.path(CLASSIFIER_FOLDER)


@per_run
def _sources(run: Run) -> Sources:
    """The photos of rare names among those that students learn from, by the names that they learn."""
    from fgvr.augment.sources import rare
    from fgvr.training.assemble import pool_targets, true_classes
    from fgvr.training.targets import true_targets

    config, rows = run.config, learned_rows(run)
    if learns_names(config, run.photos):
        targets = pool_targets(run.table("pool"), class_names(run), trusted=config.makd.trainer == "semi")
    else:
        targets = true_targets(true_classes(rows))
    ids: Ids = rows["image_id"].to_numpy()
    few = rare(targets.classes, config.augment.below)
    return Sources(ids[few], targets.classes[few], ids, targets.classes)


def _count(uri: str, summary: StageSummary, names: int) -> None:
    """Count kept and rejected pictures, and the names that have a kept one, in the finished parts."""
    import pyarrow.compute as pc

    from fgvr import tables

    reasons: Counter[str] = Counter()
    kept, covered = 0, set[str]()
    for number in range(summary.parts):
        rows = tables.read_part(uri, number, ["name", "kept", "reason"])
        chosen = rows.filter(pc.fill_null(rows["kept"], False))
        kept += chosen.num_rows
        covered.update(pc.unique(chosen["name"]).to_pylist())
        for row in rows["reason"].drop_null().value_counts().to_pylist():
            reasons[row["values"]] += row["counts"]
    counts = {f"rejected_{reason}": float(count) for reason, count in sorted(reasons.items())}
    summary.metrics |= {"kept": float(kept), "rare_names": float(names), "names_with_pictures": float(len(covered))}
    summary.metrics |= counts
    said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common()) or "none"
    log.info(
        "synthetic: %s of %s pictures kept, of %s of %s names; rejected: %s",
        kept,
        summary.rows,
        len(covered),
        names,
        said,
    )


def _remarks(summary: StageSummary, top_k: int | None, names: int) -> list[str]:
    """What a reader of the table must know."""
    said = []
    if top_k is not None and top_k >= names:
        said.append(
            f"augment.top_k = {top_k} of {names} names: a picture's name is always among the best, so that this filter "
            "rejects nothing; a smaller one would"
        )
    judged = summary.rows - summary.failed
    rejected = judged - int(summary.metrics["kept"])
    if judged and rejected / judged >= MANY:
        counts = {name: int(count) for name, count in summary.metrics.items() if name.startswith("rejected_")}
        worst = max(counts, key=counts.__getitem__).removeprefix("rejected_")
        said.append(
            f"{rejected:,} of {judged:,} pictures are rejected, most of them as {worst}: look at some of them (column "
            "image), and at prompts, generator and filters (docs/augment.md)"
        )
    return said


if __name__ == "__main__":
    stage_main(__doc__, "synthetic")
