"""near: prompts learned on candidate sets. In: labels, embeddings, candidates. Out: disambiguated labels, a model.

    python pipelines/near.py --near.loss proden --near.epochs 200 --near.workers.num_workers 2

The table has a row for each discovery image: its candidates, what the trained model makes of them, and the heaviest
one. Beside it: `model/` (classifies any image into the label space; fgvr.classifier), `history.json`. The best epoch
on held-out images is kept where `near.validation_share` holds some out, else the last one.
"""

from __future__ import annotations

import pyarrow as pa

from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.stage_files import training_name
from cluster.tracking import log_model
from cluster.train import train
from fgvr import storage
from fgvr.candidate_table import disambiguate
from fgvr.candidates import NONE
from fgvr.clip.source import find_clip, pinned
from fgvr.config import ConfigError, Near
from fgvr.label_truth import true_label_ids
from fgvr.mllm.label_space import read_label_space
from fgvr.precision import of_workers
from fgvr.tables import Table
from fgvr.training.checkpoint import HISTORY_FILE
from fgvr.training.prompt import RECIPE, train_near
from fgvr.training.prompt_data import MODEL_FOLDER, NearJob, read_weights
from pipelines import embed
from pipelines.flow import stage_main

ROWS_PER_PART = 65_536
# What changes only how a training runs, not what comes out.
NOT_DECIDING = {"checkpoint_steps", "text_chunk", "workers"}


def run(context: RunContext, samples: Table, labels: Table, embeddings: Table, candidates: Table) -> Table:
    """The disambiguated labels of the discovery images, with the model that gave them."""
    config = context.config
    if config.embed.vectors.made_up:
        raise ConfigError("embed.vectors.kind = simulated: NeaR learns nothing from made-up vectors; set it to clip")
    clip = pinned(config.clip)
    views = None
    if config.near.views > 1:
        views = embed.run_views(context, samples, candidates.read(["image_id"])["image_id"].to_numpy())
    inputs = [samples, labels, embeddings, candidates, *([] if views is None else [views])]

    def compute(folder: StageFolder) -> StageSummary:
        job = NearJob(
            settings=config.near,
            clip=clip,
            labels=labels.uri,
            embeddings=embeddings.uri,
            candidates=candidates.uri,
            views=None if views is None else views.uri,
        )
        trained = train(
            train_near,
            job,
            name=training_name(folder.attempt),
            folder=folder.uri,
            workers=config.near.workers,
            field="near.workers",
            title="near",
            epochs=config.near.epochs,
        )
        checkpoint = storage.fetch_folder(trained.checkpoint)
        storage.put_folder(checkpoint / MODEL_FOLDER, folder.path(MODEL_FOLDER))
        folder.write_bytes(HISTORY_FILE, (checkpoint / HISTORY_FILE).read_bytes())
        if config.tracking.log_models:
            log_model(folder.path(MODEL_FOLDER), "near")
        rows = disambiguate(candidates.read(), read_weights(checkpoint))
        storage.forget_folder(checkpoint)  # a copy of a remote one: what is needed of it is in the table's folder
        summary = folder.write_table(rows, ROWS_PER_PART)
        summary.metrics = trained.metrics | _against_truth(samples, labels, rows)
        summary.extra = {"images": rows.num_rows - rows["label_id"].null_count}
        return summary

    decides = {
        "version": RECIPE,
        "recipe": {name: getattr(config.near, name) for name in Near.model_fields if name not in NOT_DECIDING},
        "clip": find_clip(clip).identity(),
        "precision": of_workers(config.near.workers),
    }
    return context.stage("near", decides=decides, inputs=inputs, compute=compute, workers=config.near.workers)


def _against_truth(samples: Table, labels: Table, rows: pa.Table) -> dict[str, float]:
    """Share of right labels after training among images whose true name is known; empty where none is."""
    space = read_label_space(labels).labels
    names = samples.take(rows["image_id"].to_numpy(), ["class_name"])["class_name"].to_pylist()
    truth = true_label_ids(names, space)
    found = rows["label_id"].fill_null(NONE).to_numpy()
    known = (truth != NONE) & (found != NONE)
    return {"true_disambiguated_accuracy": float((found == truth)[known].mean())} if known.any() else {}


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.near, asks=("near",))
