"""class_scores: how likely the MLLM finds each class name as its answer. In: samples, classes. Out: class_scores.

    python pipelines/class_scores.py --mllm.model OpenGVLab/InternVL3_5-8B-HF

One row an image of `makd.split`: for every class of the student the mean log-probability of its name's tokens as the
reply to `label.prompt` (or `class_scores.prompt`). Their softmax is the teacher `mllm` of `makd.distillation`. Needs a
model that vLLM runs in the worker: chat servers do not give probabilities of an answer that they did not give.
"""

from __future__ import annotations

from typing import Any

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas
from fgvr.mllm.backend import NameTask
from fgvr.mllm.backends import backend_engine, backend_identity, exactly
from fgvr.mllm.class_score_worker import ClassScoreSettings, ClassScoreWorker
from fgvr.tables import Table
from pipelines.flow import Flow, stage_main
from pipelines.student_task import class_names, learned_rows
from pipelines.teacher import engine_of


def run(context: RunContext, flow: Flow) -> Table:
    """The scores of the student's training images; raises ConfigError for a model behind a server."""
    config = context.config.class_scores
    mllm = exactly(engine_of(context.config))
    rows = learned_rows(flow, context.config.makd)
    names = class_names(flow, context.config.makd, rows)
    settings = ClassScoreSettings(
        mllm=mllm,
        task=NameTask(names, config.prompt or context.config.label.prompt),
        limits=context.config.ingest.limits,
        threads=max(2, int(config.workers.num_cpus)),
    )
    ids = rows["image_id"].to_numpy()

    def compute(folder: StageFolder) -> StageSummary:
        schema = schemas.class_scores(len(names))
        job = PartJob(
            "class_scores",
            folder.uri,
            ClassScoreWorker,
            {"settings": settings},
            schema,
            flow.samples,
            config.workers,
            engine=backend_engine(mllm),
        )
        summary = folder.run_parts(job, ids)
        summary.extra = {"classes": len(names)}
        return summary

    decides: dict[str, Any] = {
        "mllm": backend_identity(mllm),
        "prompt": settings.task.prompt,
        "names": names,
        "limits": settings.limits,
        "workers": config.workers,
        "ids": digest_of_ids(ids),
    }
    return context.stage(
        "class_scores", decides=decides, inputs=[flow.samples], compute=compute, workers=config.workers
    )


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.class_scores, check=engine_of, asks=("class_scores",))
