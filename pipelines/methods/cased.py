"""cased: names from the captions nearest to an image."""

from __future__ import annotations

import pyarrow as pa

from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas
from fgvr.baselines import BaselineError
from fgvr.baselines.captions import read_captions
from fgvr.baselines.cased import RULES, CaptionDatabase, CasedSettings
from fgvr.baselines.cased import predict as name_by_captions
from fgvr.clip.from_features import no_vector
from fgvr.clip.model import load_clip
from fgvr.clip.source import pinned
from fgvr.clip.text_table import read_texts
from fgvr.config import Config
from fgvr.config.data import FieldGuideSource
from fgvr.demo.captions import field_guide_captions
from fgvr.embeddings import read_vectors
from fgvr.tables import Table
from pipelines.flow import Flow
from pipelines.methods.clip_classes import Ids, text_vectors


def predict(context: RunContext, flow: Flow, name: str, ids: Ids) -> Table:
    """Predictions for the images `ids`; raises BaselineError where there are no captions."""
    config, clip_of_vectors = context.config.baselines.cased, pinned(context.config.clip)
    database = text_vectors(context, "captions", captions(context.config), "{}")
    threads = max(1, int(context.config.embed.workers.num_cpus))
    settings = CasedSettings(config.retrieved, config.image_weight, threads)

    def compute(folder: StageFolder) -> StageSummary:
        vectors, found = read_vectors(flow.embeddings, ids)
        clip = load_clip(clip_of_vectors)
        texts = CaptionDatabase(*read_texts(database))
        named = iter(name_by_captions(vectors[found], texts, lambda words: clip.encode_names(words, "{}"), settings))
        rows = [
            {"image_id": image_id, **(next(named) if good else {"error": no_vector().as_row()})}
            for image_id, good in zip(ids.tolist(), found, strict=True)
        ]
        return folder.write_table(pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS))

    decides = {
        "rules": RULES,
        "ids": digest_of_ids(ids),
        "retrieved": config.retrieved,
        "image_weight": config.image_weight,
    }
    return context.stage(name, decides=decides, inputs=[flow.embeddings, database], compute=compute)


def captions(config: Config) -> list[str]:
    """The configured file's captions, or the field guide's own."""
    settings = config.baselines.cased
    if settings.captions is not None:
        return read_captions(settings.captions, settings.column)
    if isinstance(config.ingest.source, FieldGuideSource):
        return field_guide_captions()
    raise BaselineError(
        "baselines.cased.captions: the method cased needs a file of captions (.csv or .parquet with a column, or .txt "
        "with a caption a line), such as those of Conceptual Captions; or take cased out of evaluate.methods"
    )
