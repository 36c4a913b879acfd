"""infer: a trained model classifies photos. In: samples, a model folder. Out: the predictions table.

    python pipelines/infer.py --infer.model runs/birds/tables/makd/<fingerprint>/model --infer.split test

One row an image: label, score, the best five, whether the score is below `infer.abstain_below`, and p(yes) of the
aspect questions if the model answers them. `infer.model` null means this run's student with aspects.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.parts import PartJob
from cluster.settled import settled_precision
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.infer_worker import READING, InferSettings, InferWorker
from fgvr.models.base import MODEL_FILE, WEIGHTS_FILE
from fgvr.schemas import PREDICTIONS
from fgvr.splits import split_ids
from fgvr.tables import Table
from pipelines.flow import Flow, stage_main
from pipelines.student_task import check_student

MODEL_FOLDER = "model"


def run(context: RunContext, flow: Flow) -> Table:
    """Predictions of the configured model for the configured samples."""
    config = context.config.infer
    ids = image_ids(flow.samples, config.split)
    if config.model is not None:
        return classify(context, "predictions", flow.samples, ids, model=storage.absolute(config.model))
    return classify(context, "predictions", flow.samples, ids, trained=flow.makd)


def classify(
    context: RunContext,
    name: str,
    samples: Table,
    ids: npt.NDArray[np.int64],
    *,
    trained: Table | None = None,
    model: str = "",
) -> Table:
    """Predictions of one model for some samples; evaluation uses it for each method.

    Args:
        context: the run.
        name: of the table.
        samples: the samples table.
        ids: int64 [n], ascending, images to classify.
        trained: table of the stage that trained the model …
        model: … or the URI of a model folder.
    """
    config = context.config.infer
    settings = InferSettings(
        model=model if trained is None else trained.path(MODEL_FOLDER),
        limits=context.config.ingest.limits,
        abstain_below=config.abstain_below,
        batch_images=config.batch_images,
        device="cuda" if config.workers.num_gpus else "cpu",
        threads=max(1, int(config.workers.num_cpus)),
    )

    def compute(folder: StageFolder) -> StageSummary:
        begun = settled_precision(folder, config.workers) if _depends_on_device(settings) else None
        arguments = {"settings": replace(settings, begun=begun)}
        job = PartJob(name, folder.uri, InferWorker, arguments, PREDICTIONS, samples, config.workers)
        summary = folder.run_parts(job, ids)
        summary.extra = {"model": settings.model}
        return summary

    decides: dict[str, Any] = {
        "limits": settings.limits,
        "reading": READING,
        "device": config.workers.device,
        "abstain_below": settings.abstain_below,
        "workers": config.workers,
        "ids": digest_of_ids(ids),
    }
    if trained is None:
        return context.stage(
            name,
            decides={**decides, "model": identity_of(model)},
            inputs=[samples],
            compute=compute,
            workers=config.workers,
        )
    return context.stage(name, decides=decides, inputs=[samples, trained], compute=compute, workers=config.workers)


def _depends_on_device(settings: InferSettings) -> bool:
    """Whether the predictions' precision may differ from one of the workers' devices to another."""
    facts = json.loads(storage.read_bytes(storage.join(settings.model, MODEL_FILE)))
    return settings.device == "cuda" or facts.get("precision") == "bf16"


def image_ids(samples: Table, split: str | None) -> npt.NDArray[np.int64]:
    """Ids of a split's images, ascending; of all images for None. Raises ConfigError where the split is empty."""
    ids = split_ids(samples, None if split is None else [split])
    if not len(ids):
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"infer.split = {split}: no image is in this split (there are: {known})")
    return ids


def check_model(config: Config) -> None:
    """Read the configured model's files; raises ConfigError where there is none."""
    if config.infer.model is not None:
        identity_of(storage.absolute(config.infer.model))


def _check(config: Config) -> None:
    """Before anything is started: the model, or what trains it."""
    check_model(config)
    if config.infer.model is None:
        check_student(config)


def identity_of(model: str) -> str:
    """Hash of a model folder's files, so that a model trained anew under the same name is another one."""
    digest = hashlib.sha256()
    for name in (MODEL_FILE, WEIGHTS_FILE):
        try:
            digest.update(storage.read_bytes(storage.join(model, name)))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"infer.model = {model}: it has no {name}, so it is not a trained model") from None
    return digest.hexdigest()


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.predictions, check=_check, asks=("predictions",))
