"""aspects: p(yes) of every aspect question for the student's training images. In: samples, questions. Out: aspects.

    python pipelines/aspects.py --aspects.split train --mllm.model OpenGVLab/InternVL3_5-8B-HF

One row an image: `p_yes` and `label_mass` for all questions in the order of their ids, softmax of the first reply
token's exact log-probabilities of the two answer words. An image is read, preprocessed and encoded once for all its
questions; its prompt's prefix is computed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas
from fgvr.config import Aspects, ConfigError
from fgvr.mllm.aspect_worker import AspectSettings, AspectWorker
from fgvr.mllm.backend import AspectTask
from fgvr.mllm.backends import backend_identity
from fgvr.tables import Table
from pipelines.flow import stage_main


def run(context: RunContext, samples: Table, questions: Table) -> Table:
    """The aspects of the configured images."""
    return ask(context, "aspects", samples, questions, image_ids(samples, context.config.aspects))


def ask(context: RunContext, table: str, samples: Table, questions: Table, ids: npt.NDArray[np.int64]) -> Table:
    """The aspects of the images `ids` (int64, ascending) as the table `table`."""
    config = context.config.aspects
    texts = tuple(questions.read(["text"])["text"].to_pylist())
    settings = AspectSettings(
        mllm=context.config.mllm,
        task=AspectTask(texts, config.instruction, config.order, config.words),
        min_label_mass=config.min_label_mass,
        limits=context.config.ingest.limits,
        threads=max(2, int(config.workers.num_cpus)),
    )

    def compute(folder: StageFolder) -> StageSummary:
        schema = schemas.aspects(len(texts))
        job = PartJob(table, folder.uri, AspectWorker, {"settings": settings}, schema, samples, config.workers)
        summary = folder.run_parts(job, ids)
        prompt, cached = (summary.metrics.get(f"{kind}_tokens", 0.0) for kind in ("prompt", "cached"))
        summary.metrics["cached_share"] = cached / prompt if prompt else 0.0
        summary.extra = {"questions": len(texts)}
        return summary

    decides: dict[str, Any] = {
        "mllm": backend_identity(settings.mllm),
        "instruction": config.instruction,
        "order": config.order,
        "words": config.words,
        "min_label_mass": config.min_label_mass,
        "limits": settings.limits,
        "workers": config.workers,
        "ids": digest_of_ids(ids),
    }
    return context.stage(table, decides=decides, inputs=[samples, questions], compute=compute)


def image_ids(samples: Table, config: Aspects) -> npt.NDArray[np.int64]:
    """Ascending ids of the images asked about: the split, or so many of it at random."""
    rows = samples.read(["image_id", "split"])
    ids = rows.filter(pc.equal(rows["split"], config.split))["image_id"].to_numpy()
    if not len(ids):
        known = ", ".join(sorted(pc.unique(rows["split"]).to_pylist()))
        raise ConfigError(f"aspects.split = {config.split}: no image is in this split (there are: {known})")
    if config.max_images is not None and config.max_images < len(ids):
        ids = np.random.default_rng(config.seed).choice(ids, size=config.max_images, replace=False)
    return np.sort(np.asarray(ids, dtype=np.int64))


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.aspects)
