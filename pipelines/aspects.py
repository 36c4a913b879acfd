"""aspects: p(yes) of every aspect question for the student's training images. In: samples, questions. Out: aspects.

    python pipelines/aspects.py --aspects.split train --mllm.model OpenGVLab/InternVL3_5-8B-HF

One row an image: `p_yes` and `label_mass` for all questions in the order of their ids, softmax of the first reply
token's exact log-probabilities of the two answer words. An image is read, preprocessed and encoded once for all its
questions; its prompt's prefix is computed once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas
from fgvr.config import Aspects, Config, ConfigError
from fgvr.mllm.aspect_worker import AspectSettings, AspectWorker
from fgvr.mllm.backend import AspectTask
from fgvr.mllm.backends import backend_engine, backend_identity, exactly
from fgvr.splits import first_of, split_ids
from fgvr.tables import Table
from pipelines.flow import stage_main
from pipelines.look_parts import take_part


def run(context: RunContext, samples: Table, questions: Table, looks: Table | None = None) -> Table:
    """The aspects of the configured images, by what was answered in `looks`, else by asking."""
    ids = image_ids(samples, context.config.aspects)
    if looks is None:
        return ask(context, "aspects", samples, questions, ids)
    return take_part(context, looks, "aspects", column="aspects", ids=ids, schema=schemas.aspects(questions.rows))


def ask(context: RunContext, table: str, samples: Table, questions: Table, ids: npt.NDArray[np.int64]) -> Table:
    """The aspects of the images `ids` (int64, ascending) as the table `table`."""
    config = context.config.aspects
    settings = aspect_settings(context.config, questions)
    settings = replace(settings, mllm=exactly(settings.mllm))
    count = len(settings.task.questions)

    def compute(folder: StageFolder) -> StageSummary:
        schema = schemas.aspects(count)
        job = PartJob(
            table,
            folder.uri,
            AspectWorker,
            {"settings": settings},
            schema,
            samples,
            config.workers,
            engine=backend_engine(settings.mllm),
        )
        summary = folder.run_parts(job, ids)
        summary.extra = {"questions": count}
        return summary

    decides = aspect_decides(context.config)
    decides |= {"workers": config.workers, "ids": digest_of_ids(ids)}
    return context.stage(table, decides=decides, inputs=[samples, questions], compute=compute, workers=config.workers)


def aspect_settings(config: Config, questions: Table) -> AspectSettings:
    """How the questions are asked."""
    asked = config.aspects
    texts = tuple(questions.read(["text"])["text"].to_pylist())
    return AspectSettings(
        mllm=config.mllm,
        task=AspectTask(texts, asked.instruction, asked.order, asked.words),
        min_label_mass=asked.min_label_mass,
        limits=config.ingest.limits,
        threads=max(2, int(asked.workers.num_cpus)),
    )


def aspect_decides(config: Config) -> dict[str, Any]:
    """What decides the aspects of an image, besides the questions."""
    asked = config.aspects
    return {
        "mllm": backend_identity(config.mllm),
        "instruction": asked.instruction,
        "order": asked.order,
        "words": asked.words,
        "min_label_mass": asked.min_label_mass,
        "limits": config.ingest.limits,
    }


def image_ids(samples: Table, config: Aspects) -> npt.NDArray[np.int64]:
    """Ascending ids of the images asked about: the split, or the first of it in the order of the seed."""
    ids = split_ids(samples, [config.split])
    if not len(ids):
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"aspects.split = {config.split}: no image is in this split (there are: {known})")
    return first_of(ids, config.max_images, config.seed)


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.aspects, asks=("aspects",))
