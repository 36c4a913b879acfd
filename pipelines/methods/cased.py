"""cased: names taken from the captions nearest to an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from fgvr.config.data import FieldGuideSource
from pipelines.compared import ComparedStage, compared_images
from pipelines.embed import vectors_at
from pipelines.methods.clip_classes import TextStage, check_method
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary


class Captions(TextStage):
    """The configured file's captions, or the field guide's own."""

    table = "captions"

    def texts(self, config: Config) -> Sequence[str]:
        """All captions; raises BaselineError where there are none."""
        from fgvr.baselines import BaselineError
        from fgvr.baselines.vocabularies import read_captions
        from fgvr.demo.captions import field_guide_captions

        settings = config.baselines.cased
        if settings.captions is not None:
            return read_captions(settings.captions, settings.column)
        if isinstance(config.ingest.source, FieldGuideSource):
            return field_guide_captions()
        raise BaselineError(
            "baselines.cased.captions: the method cased needs a file of captions (.csv or .parquet with a column, or "
            ".txt with a caption per line), such as those of Conceptual Captions; or take cased out of evaluate.methods"
        )

    def template(self, config: Config) -> str:
        """No template: a caption is a sentence already."""
        return "{}"


class Cased(ComparedStage):
    """Names taken from the words of the nearest captions."""

    table = "eval_cased"

    def check(self, config: Config) -> None:
        """Refuse vectors that cannot be compared with captions."""
        check_method(config, self.table)

    def reads(self, run: Run) -> Iterable[str]:
        """The vectors of images and captions."""
        return ("embeddings", "captions")

    def recipe(self, run: Run) -> dict[str, Any]:
        """The method's settings, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.baselines.cased import RULES

        config = run.config.baselines.cased
        return {
            "rules": RULES,
            "ids": digest_of_ids(compared_images(run).predicted),
            "retrieved": config.retrieved,
            "image_weight": config.image_weight,
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Name all images at once, from their finished vectors."""
        import pyarrow as pa

        from fgvr import schemas
        from fgvr.baselines.cased import CaptionDatabase, CasedSettings, predict
        from fgvr.clip.model import load_clip
        from fgvr.clip.vectors import read_texts, read_vectors
        from fgvr.models.from_features import no_vector

        config, ids = run.config.baselines.cased, compared_images(run).predicted
        threads = max(1, int(run.config.embed.workers.num_cpus))
        settings = CasedSettings(config.retrieved, config.image_weight, threads)
        vectors, found = read_vectors(run.table("embeddings"), ids)
        clip = load_clip(vectors_at(run.config))
        texts = CaptionDatabase(*read_texts(run.table("captions")))
        named = iter(predict(vectors[found], texts, lambda words: clip.encode_names(words, "{}"), settings))
        rows = [
            {"image_id": image_id, **(next(named) if good else {"error": no_vector().as_row()})}
            for image_id, good in zip(ids.tolist(), found, strict=True)
        ]
        return folder.write_table(pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS))
