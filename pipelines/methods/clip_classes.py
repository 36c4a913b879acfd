"""Methods that compare the vectors of the stage embed with class vectors; no image is read again."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import Config
from pipelines.compared import ComparedStage, compared_images
from pipelines.embed import check_texts, vectors_at
from pipelines.infer import costs_at, stated_costs
from pipelines.kinds import tree_tables
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.models.from_features import VectorClassifier
    from fgvr.models.near import ClassFeatures


def check_method(config: Config, table: str) -> None:
    """Refuse vectors without a text tower for the method of a table `eval_…`; raises ConfigError."""
    method = table.removeprefix("eval_")
    check_texts(config, f"the method {method}", f"take {method} out of evaluate.methods")


class ClassesStage(ComparedStage):
    """A stage that names images with a classifier of stored vectors: CLIP with class vectors, or a head."""

    def check(self, config: Config) -> None:
        """Refuse vectors that cannot be compared with texts."""
        check_method(config, self.table)

    def made_of(self, run: Run) -> Iterable[str]:
        """Tables from which the classes are made."""
        return ()

    def decided_by(self, run: Run) -> dict[str, Any]:
        """What else decides the classes."""
        return {}

    @abstractmethod
    def classes(self, run: Run) -> VectorClassifier:
        """The classifier, without the encoder of its vectors."""

    def reads(self, run: Run) -> Iterable[str]:
        """The vectors of the images, the tables from which the classes are made, and what decides in a tree."""
        return ("embeddings", *self.made_of(run), *tree_tables(run.config))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The classes, the ids of the images, and the smallest score for which a name is given."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.models.from_features import RULES

        ids = digest_of_ids(compared_images(run).predicted)
        silent = {"abstain_below": run.config.infer.abstain_below, **stated_costs(run)}
        return {"rules": RULES, **self.decided_by(run), "ids": ids, **silent}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """All images at once: their vectors are there."""
        from fgvr.models.from_features import predictions_from_features, texts_of

        config = run.config
        ids, decide = compared_images(run).predicted, (config.infer.abstain_below, costs_at(run))
        classes = self.classes(run)
        texts = texts_of(classes, run.table("samples"), ids)
        rows = predictions_from_features(run.table("embeddings"), ids, classes, *decide, texts=texts)
        return folder.write_table(rows)


class ZeroShot(ClassesStage):
    """zs_clip: the names that the MLLM gave, in the configured template."""

    table = "eval_zs_clip"

    def made_of(self, run: Run) -> Iterable[str]:
        """The label space."""
        return ("labels",)

    def decided_by(self, run: Run) -> dict[str, Any]:
        """The CLIP model, and the template."""
        from fgvr.clip.source import find_clip

        clip = vectors_at(run.config)
        return {"clip": find_clip(clip).identity(), "template": clip.template}

    def classes(self, run: Run) -> ClassFeatures:
        """The names' vectors."""
        from fgvr.clip.model import load_clip
        from fgvr.models.near import zero_shot_classes
        from fgvr.names.label_space import read_label_space

        clip = vectors_at(run.config)
        return zero_shot_classes(load_clip(clip), read_label_space(run.table("labels")).labels, clip.template)


class Learned(ClassesStage):
    """near: class vectors from the prompts that NeaR learned."""

    table = "eval_near"

    def made_of(self, run: Run) -> Iterable[str]:
        """The table of NeaR, with its model."""
        return ("near",)

    def classes(self, run: Run) -> ClassFeatures:
        """The names in its prompts."""
        from fgvr.models.near import load_classes

        return load_classes(storage.fetch_folder(run.table("near").path("model")))


class TextStage(Stage):
    """CLIP vectors of many texts: stored by content, computed on the workers that embed images."""

    one_call = True

    @abstractmethod
    def texts(self, config: Config) -> Sequence[str]:
        """All texts; raises BaselineError where there are none."""

    @abstractmethod
    def template(self, config: Config) -> str:
        """The template around each text."""

    def check(self, config: Config) -> None:
        """Check that the texts can be read."""
        self.texts(config)

    def workers(self, config: Config) -> str | None:
        """One worker of embed."""
        return "embed.workers"

    def recipe(self, run: Run) -> dict[str, Any]:
        """The texts, the template, the model and the precision."""
        from fgvr.clip.source import find_clip
        from fgvr.precision import of_workers

        content = hashlib.sha256("\n".join(self.texts(run.config)).encode()).hexdigest()
        return {
            "texts": content,
            "template": self.template(run.config),
            "clip": find_clip(vectors_at(run.config)).identity(),
            "precision": of_workers(run.config.embed.workers),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Embed the texts in one worker."""
        from cluster.once import run_once
        from cluster.settled import settled_precision
        from cluster.stage import StageSummary
        from fgvr.clip.vectors import TEXTS_A_PART, write_texts

        config, texts, workers = run.config, list(self.texts(run.config)), run.config.embed.workers
        precision = settled_precision(folder, workers) if workers.num_gpus else None
        arguments = (vectors_at(config), texts, self.template(config), folder.uri, precision)
        parts = run_once(write_texts, *arguments, workers=workers)
        return StageSummary(rows=len(texts), parts=parts, rows_per_part=TEXTS_A_PART)
