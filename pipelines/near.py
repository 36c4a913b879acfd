"""near: prompts learned on candidate sets. In: labels, embeddings, candidates. Out: disambiguated labels, a model.

    python pipelines/near.py --near.loss proden --near.epochs 200 --near.workers.num_workers 2

The table has one row per discovery image: its candidates, what the trained model makes of them, and the heaviest
one. Beside it: `model/` (classifies any image into the label space; fgvr.classifier), `history.json`. The best epoch
on held-out images is kept where `near.validation_share` holds some out, else the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import Config, ConfigError
from pipelines.command import stage_main
from pipelines.embed import vectors_at
from pipelines.stage import Run, Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.tables import Table

ROWS_PER_PART = 65_536


class Near(Stage):
    """The disambiguated labels of the discovery images, with the model that gave them."""

    table = "near"
    phase = "train"

    def check(self, config: Config) -> None:
        """Made-up vectors teach nothing."""
        if config.embed.vectors.made_up:
            raise ConfigError(
                "embed.vectors.kind = simulated: NeaR and the evaluation need CLIP's vectors. Set it to clip, or run "
                "only pipelines/embed.py and pipelines/candidates.py"
            )

    def workers(self, config: Config) -> str | None:
        """Those that train it."""
        return "near.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """Names, vectors, candidates, and augmented views where there are to be some."""
        views = ("views",) if run.config.near.views > 1 else ()
        return ("samples", "labels", "embeddings", "candidates", *views)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The recipe of the training, and the CLIP whose text side learns."""
        from fgvr.clip.source import find_clip
        from fgvr.precision import of_workers
        from fgvr.training.prompt import RECIPE

        near = run.config.near
        return {
            "version": RECIPE,
            "recipe": near.deciding(),
            "clip": find_clip(vectors_at(run.config)).identity(),
            "precision": of_workers(near.workers),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Train, keep the model, and let it say which candidate each image is."""
        from cluster.stage_files import training_name
        from cluster.tracking import log_model
        from cluster.train import train
        from fgvr.candidate_table import disambiguate
        from fgvr.training.checkpoint import HISTORY_FILE
        from fgvr.training.prompt import train_near
        from fgvr.training.prompt_data import MODEL_FOLDER, NearJob, read_weights

        config, candidates = run.config, run.table("candidates")
        job = NearJob(
            settings=config.near,
            clip=vectors_at(config),
            labels=run.table("labels").uri,
            embeddings=run.table("embeddings").uri,
            candidates=candidates.uri,
            views=run.table("views").uri if config.near.views > 1 else None,
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
        summary.metrics = trained.metrics | _against_truth(run.table("samples"), run.table("labels"), rows)
        summary.extra = {"images": rows.num_rows - rows["label_id"].null_count}
        return summary


def _against_truth(samples: Table, labels: Table, rows: pa.Table) -> dict[str, float]:
    """Share of right labels after training among images whose true name is known; empty where none is."""
    from fgvr.candidates import NONE
    from fgvr.label_truth import true_label_ids
    from fgvr.mllm.label_space import read_label_space

    space = read_label_space(labels).labels
    names = samples.take(rows["image_id"].to_numpy(), ["class_name"])["class_name"].to_pylist()
    truth = true_label_ids(names, space)
    found = rows["label_id"].fill_null(NONE).to_numpy()
    known = (truth != NONE) & (found != NONE)
    return {"true_disambiguated_accuracy": float((found == truth)[known].mean())} if known.any() else {}


if __name__ == "__main__":
    stage_main(__doc__, "near")
