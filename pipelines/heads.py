"""heads: classifiers on stored vectors, in seconds and without a GPU. In: labels, embeddings, space. Out: two models.

    python pipelines/heads.py --heads.loss gce --heads.network cosine
    python pipelines/infer.py --infer.trained label_prototypes

`label_prototypes`: a name's direction is the sum of the vectors of the images whose own label it is; nothing is
trained. `heads`: a cosine or linear head or an MLP, trained with a loss for noisy labels, candidate sets or rare names.
Each table has one row per discovery image, and beside it `model/`: encoder, whitening and head, which classifies any
photo. `propagated` names all photos with a vector by label propagation, where there are few answers per name.
See docs/heads.md.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr import storage
from fgvr.config import Config, ConfigError
from pipelines.beliefs import second_look, second_look_tables, settled_names
from pipelines.command import stage_main
from pipelines.embed import check_texts, encoder_at, vectors_at
from pipelines.infer import costs_at, stated_costs
from pipelines.kinds import tree_tables
from pipelines.metadata import check_metadata, feature_blocks, metadata_recipe, prepare
from pipelines.run_tables import Run
from pipelines.selection import read_whitening
from pipelines.stage import Phase, Stage
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Floats, Ids
    from fgvr.config.heads import Heads as HeadsConfig
    from fgvr.encoders.encoder import EncoderConfig
    from fgvr.heads.training import HeadRecipe
    from fgvr.models.head import VectorClasses
    from fgvr.models.learned_head import Learned
    from fgvr.neighbours import Vectors
    from fgvr.neighbours.discovery import Flags
    from fgvr.selection.whitening import Whitening
    from fgvr.tables import Table

log = logging.getLogger(__name__)

ROWS_PER_PART = 2**18
HISTORY_FILE = "losses.json"
ANSWERS = "answers_per_name"
"""Key in the metadata: labelled images per name, by which label propagation is switched on."""


@dataclass(frozen=True)
class Taught:
    """What the discovery images teach.

    Attributes:
        ids: int64 [N], ascending.
        labels: own label of each image, int64 [N]; −1 without a label or a vector.
        vectors: the encoder's vectors, fp16 [N, d]; zeros if missing.
        embedded: bool [N], has a vector.
        names: the label space.
    """

    ids: Ids
    labels: Ids
    vectors: Vectors
    embedded: Flags
    names: tuple[str, ...]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Image id and own label of the images that have both a label and a vector."""
        known = self.labels >= 0
        return zip(self.ids[known].tolist(), self.labels[known].tolist(), strict=True)


class VectorModelStage(Stage):
    """A stage that makes a classifier of vectors, saved beside its table."""

    phase: ClassVar[Phase | None] = "train"

    def check(self, config: Config) -> None:
        """Refuse made-up vectors, from which nothing can be learned."""
        if config.embed.vectors.made_up:
            raise ConfigError(
                f"embed.vectors.kind = simulated: {self.table} needs vectors of an encoder. Set it to clip or timm"
            )

    def reads(self, run: Run) -> Iterable[str]:
        """The labels, with what a second look made of them, the vectors, and their whitened space."""
        space = ("space",) if self.whitens(run.config) else ()
        return ("labels", *second_look_tables(run.config), "embeddings", *space)

    def whitens(self, config: Config) -> bool:
        """Whether vectors are whitened first."""
        return config.heads.whiten

    @abstractmethod
    def learned(self, run: Run, taught: Taught, whitening: Whitening | None) -> Learned:
        """The model, and what is known of it."""

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Learn, save the model, and write what it says about the images that it learned from."""
        from cluster.tracking import log_model
        from fgvr.heads.prototypes import answers_per_name
        from fgvr.models.head import HeadModel

        taught = taught_in(run)
        whitening = read_whitening(run.table("space")) if self.whitens(run.config) else None
        learned = self.learned(run, taught, whitening)
        for line in learned.remarks:
            log.warning("%s: %s", self.table, line)
        facts = {"method": self.table, "heads": run.config.heads.model_dump(mode="json"), **learned.metrics}
        with tempfile.TemporaryDirectory() as place:
            HeadModel(learned.classes, _encoder(run.config), facts).save(Path(place, MODEL_FOLDER))
            storage.put_folder(Path(place, MODEL_FOLDER), folder.path(MODEL_FOLDER))
        if learned.history:
            folder.write_bytes(HISTORY_FILE, json.dumps(learned.history).encode())
        if run.config.tracking.log_models:
            log_model(folder.path(MODEL_FOLDER), self.table)
        summary = folder.write_table(_rows(run, taught, learned.classes), ROWS_PER_PART)
        per_name = answers_per_name(taught.labels)
        summary.metrics = {"names": float(len(learned.classes.labels)), ANSWERS: per_name, **learned.metrics}
        summary.extra = {ANSWERS: per_name, "images": int((taught.labels >= 0).sum()), **learned.extra}
        summary.remarks = tuple(learned.remarks)
        return summary


class LabelPrototypes(VectorModelStage):
    """Prototypes of the labels' names: nothing is trained."""

    table = "label_prototypes"

    def recipe(self, run: Run) -> dict[str, Any]:
        """The rules, and whether vectors are whitened."""
        from fgvr.models.learned_head import RULES

        return {"rules": RULES, "whiten": run.config.heads.whiten, "seed": run.config.heads.seed}

    def learned(self, run: Run, taught: Taught, whitening: Whitening | None) -> Learned:
        """Directions, and the temperature by which left-out images agree best with their labels."""
        from fgvr.models.learned_head import learn_prototypes

        return learn_prototypes(taught.vectors, taught.labels, taught.names, whitening, seed=run.config.heads.seed)


class Heads(VectorModelStage):
    """A head trained on the labels or candidate sets of the discovery images."""

    table = "heads"

    def check(self, config: Config) -> None:
        """Also refuse a start at texts where vectors have none."""
        super().check(config)
        check_metadata(config, config.heads.metadata, "heads.metadata")
        if config.heads.start == "text":
            check_texts(config, "heads.start = text", "set heads.start to random")

    def whitens(self, config: Config) -> bool:
        """Not where the head starts at texts: they are compared with vectors as they are."""
        return config.heads.whiten and config.heads.start != "text"

    def reads(self, run: Run) -> Iterable[str]:
        """Also the candidate sets, for losses that learn from them, and the samples for their metadata."""
        config = run.config.heads
        sets, samples = ("candidates",), ("samples",)
        return (
            *super().reads(run),
            *(sets if config.learns_from_sets else ()),
            *(samples if config.metadata.on else ()),
        )

    def recipe(self, run: Run) -> dict[str, Any]:
        """The training recipe, and the texts where it starts."""
        from fgvr.clip.source import find_clip
        from fgvr.heads.training import RECIPE
        from fgvr.models.learned_head import RULES

        config = run.config.heads
        aside = {"propagation", "graph_images", *(() if config.network == "mlp" else ("hidden",))}
        texts: dict[str, Any] = {}
        if config.start == "text":
            clip = vectors_at(run.config)
            texts = {"clip": find_clip(clip).identity(), "template": clip.template}
        if not config.metadata.on:
            aside.add("metadata")  # earlier versions had none
        else:
            texts |= metadata_recipe(config.metadata, "heads.metadata")
        recipe = config.model_dump(mode="json", exclude=aside)
        if config.metadata.on:
            recipe["metadata"].pop("leaks")
        return {"rules": RULES, "version": RECIPE, "recipe": recipe, **texts}

    def learned(self, run: Run, taught: Taught, whitening: Whitening | None) -> Learned:
        """Train the members, and some more on folds for the temperature."""
        import numpy as np

        from fgvr.candidates.sets import read_sets
        from fgvr.clip.model import load_clip
        from fgvr.heads.beside import Beside
        from fgvr.models.learned_head import learn_heads, sets_of_labels

        config = run.config.heads
        known, beside = None, None
        if config.metadata.on:
            samples, taught_rows = run.table("samples"), np.flatnonzero(taught.labels >= 0)
            known = prepare(
                *(samples, taught.ids, taught.labels),
                training=taught_rows,
                settings=config.metadata,
                field="heads.metadata",
                seed=config.seed,
            )
            features = np.concatenate(list(feature_blocks(samples, taught.ids, known.fitted)))
            beside = Beside(known.fitted, features, config.metadata)
        sets = sets_of_labels(taught.labels)
        if config.learns_from_sets:
            sets = read_sets(run.table("candidates").find(taught.ids)).only(taught.embedded)
        start = None
        if config.start == "text":
            clip = load_clip(vectors_at(run.config))
            start = (clip.encode_names(taught.names, vectors_at(run.config).template), clip.logit_scale)
        learned = learn_heads(
            taught.vectors,
            taught.labels,
            sets,
            taught.names,
            whitening,
            recipe=recipe_of(config),
            members=config.members,
            seed=config.seed,
            start=start,
            beside=beside,
            threads=len(os.sched_getaffinity(0)),
        )
        if known is None:
            return learned
        return replace(learned, remarks=[*learned.remarks, *known.remarks], extra=known.extra)


class Propagated(Stage):
    """The names of all photos with a vector, by prototypes and label propagation among them."""

    table = "propagated"
    phase: ClassVar[Phase | None] = "train"

    def reads(self, run: Run) -> Iterable[str]:
        """The prototypes, what they are made of, and what decides in a tree."""
        config = run.config
        looked = second_look_tables(config)
        return ("samples", "labels", *looked, "embeddings", "label_prototypes", *tree_tables(config))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The rules, the photos of the graph, and when nothing is said."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.heads.propagation import RULES

        silent = {"abstain_below": run.config.infer.abstain_below, **stated_costs(run)}
        return {"rules": RULES, "ids": digest_of_ids(graph_ids(run)), **silent}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Search the graph, propagate, and name the photos."""
        from fgvr.models.head import load_vector_classes
        from fgvr.models.propagated import propagated_rows

        classes = load_vector_classes(storage.fetch_folder(run.table("label_prototypes").path(MODEL_FOLDER)))
        taught, ids = taught_in(run), graph_ids(run)
        rows, metrics = propagated_rows(
            run.table("embeddings"),
            ids,
            classes,
            {image: taught.names[label] for image, label in taught.pairs()},
            abstain_below=run.config.infer.abstain_below,
            costs=costs_at(run),
            threads=len(os.sched_getaffinity(0)),
        )
        summary = folder.write_table(rows, ROWS_PER_PART)
        summary.metrics = metrics
        return summary


def propagates(run: Run) -> bool:
    """Whether the prototypes' names come from label propagation; asks for the table `label_prototypes`."""
    from fgvr.heads.propagation import FEW_ANSWERS

    wanted = run.config.heads.propagation
    if wanted != "auto":
        return wanted == "always"
    return float(run.table("label_prototypes").extra.get(ANSWERS, 0)) <= FEW_ANSWERS


def graph_ids(run: Run) -> Ids:
    """Ids of the photos in the graph, ascending: all with a vector, or a sample beside those labelled and evaluated."""
    import numpy as np

    from fgvr.sources.sampling import split_ids

    config = run.config
    embedded: Ids = np.sort(run.table("embeddings").read(["image_id"])["image_id"].to_numpy())
    if len(embedded) <= config.heads.graph_images:
        return embedded
    labelled = run.table("labels").read(["image_id"])["image_id"].to_numpy()
    kept = np.union1d(labelled, split_ids(run.table("samples"), [config.evaluate.split]))
    kept = np.intersect1d(kept, embedded)
    others = np.setdiff1d(embedded, kept)
    count = max(0, config.heads.graph_images - len(kept))
    drawn = np.random.default_rng(config.heads.seed).choice(others, count, replace=False)
    log.info("propagated: %s of %s photos are in the graph (heads.graph_images)", len(kept) + count, len(embedded))
    return np.union1d(kept, drawn)


def taught_in(run: Run) -> Taught:
    """The labels and vectors of the run's discovery images; labels as a second look left them (`label.reask`)."""
    return taught_by(run.table("labels"), run.table("embeddings"), second_look(run))


def taught_by(labels_table: Table, embeddings: Table, reasked: Table | None) -> Taught:
    """The labels and vectors of the discovery images, labels as in `pipelines.beliefs.settled_names`."""
    import numpy as np

    from fgvr.arrays import NONE
    from fgvr.names.label_space import read_label_space
    from fgvr.neighbours.discovery import discovery_vectors

    ids, own = settled_names(labels_table, reasked)
    vectors, embedded = discovery_vectors(embeddings, ids)
    vectors[~embedded] = 0
    labels = np.where(embedded, own.first, NONE).astype(np.int64)
    return Taught(ids, labels, vectors, embedded, read_label_space(labels_table).labels)


def recipe_of(config: HeadsConfig) -> HeadRecipe:
    """How the config trains a head."""
    from fgvr.heads.training import HeadRecipe

    return HeadRecipe(
        kind=config.network,
        loss=config.loss,
        steps=config.steps,
        lr=config.lr,
        weight_decay=config.weight_decay,
        hidden=config.hidden,
        gce_q=config.gce_q,
    )


def _encoder(config: Config) -> EncoderConfig | None:
    """The encoder of the vectors; None if they came from a file."""
    try:
        return encoder_at(config)
    except ConfigError:
        return None


def _rows(run: Run, taught: Taught, classes: VectorClasses) -> Any:
    """A row of `schemas.HEAD_TARGETS` per discovery image."""
    import numpy as np
    import pyarrow as pa

    from fgvr import schemas
    from fgvr.models.from_features import IMAGES_AT_ONCE, scores_of, texts_of

    best, score = np.zeros(len(taught.ids), np.int64), np.zeros(len(taught.ids), np.float32)
    for at in range(0, len(taught.ids), IMAGES_AT_ONCE):
        here = slice(at, at + IMAGES_AT_ONCE)
        vectors, texts = taught.vectors[here], texts_of(classes, run.table("samples"), taught.ids[here])
        scores: Floats = scores_of(classes, vectors, texts, slice(0, len(vectors)))
        best[at : at + len(scores)], score[at : at + len(scores)] = scores.argmax(axis=1), scores.max(axis=1)
    names = np.array(classes.labels, object)[best]
    columns = {
        "image_id": taught.ids,
        "label_id": pa.array(taught.labels, pa.int32(), mask=taught.labels < 0),
        "named": pa.array(names, pa.string(), mask=~taught.embedded),
        "score": pa.array(score, pa.float32(), mask=~taught.embedded),
    }
    return pa.table(columns, schema=schemas.HEAD_TARGETS)


if __name__ == "__main__":
    stage_main(__doc__, "label_prototypes", "heads")
