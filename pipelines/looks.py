"""looks: labels and aspects in one pass over the images. In: samples, questions. Out: looks, answers, aspects.

    python pipelines/looks.py --aspects.with_labels true --questions.file questions.txt

With `aspects.with_labels` the stages label and aspects ask nothing themselves: this one reads every image once, asks
for its name where it is in the discovery set and all questions where the student trains on it. Both take their rows
from its table, which are those that they would have computed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas
from fgvr.config import Config, ConfigError
from fgvr.discovery import discovery_ids
from fgvr.mllm.backends import backend_engine, exactly
from fgvr.mllm.look_worker import LookSettings, LookWorker
from fgvr.tables import Table
from pipelines import aspects, label
from pipelines.flow import stage_main


def run(context: RunContext, samples: Table, questions: Table) -> Table:
    """What the model says about the images of label and aspects."""
    config = context.config
    label_ids = discovery_ids(samples.batches(["image_id", "split", "class_id"]), config.label.images)
    aspect_ids = aspects.image_ids(samples, config.aspects)
    of_label, of_aspects = label.label_settings(config, several=True), aspects.aspect_settings(config, questions)
    mllm = exactly(config.mllm)
    settings = LookSettings(replace(of_label, mllm=mllm), replace(of_aspects, mllm=mllm), label_ids, aspect_ids)
    ids = np.union1d(label_ids, aspect_ids)

    def compute(folder: StageFolder) -> StageSummary:
        schema = schemas.looks(questions.rows)
        workers = config.aspects.workers
        job = PartJob(
            "looks",
            folder.uri,
            LookWorker,
            {"settings": settings},
            schema,
            samples,
            workers,
            engine=backend_engine(mllm),
        )
        summary = folder.run_parts(job, ids)
        summary.extra = {"questions": questions.rows}
        return summary

    decides = {"label": label.answer_decides(settings.label), "aspects": aspects.aspect_decides(config)}
    decides |= {"workers": config.aspects.workers, "ids": [digest_of_ids(label_ids), digest_of_ids(aspect_ids)]}
    return context.stage(
        "looks", decides=decides, inputs=[samples, questions], compute=compute, workers=config.aspects.workers
    )


def _check(config: Config) -> None:
    if not config.aspects.with_labels:
        raise ConfigError("aspects.with_labels is false: the stages label and aspects ask by themselves")


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.looks, check=_check, asks=("looks",))
