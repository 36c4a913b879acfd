"""near: learn prompts on candidate sets. In: labels, embeddings, candidates. Out: disambiguated labels, a model.

    python pipelines/near.py --near.loss proden --near.epochs 200 --near.workers.num_workers 2

The table has one row per discovery image: its candidates, their weights by the trained model, and the heaviest one.
Beside it: `model/` (classifies any image into the label space; fgvr.models.infer), `history.json`. The model is that of
the best epoch on held-out images where `near.validation_share` holds some out, or else of the last epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from fgvr.config.vectors import has_texts
from pipelines.asks import Work, sampled
from pipelines.command import stage_main
from pipelines.embed import check_texts, vectors_at
from pipelines.run_tables import Run
from pipelines.train_stage import Training, TrainStage

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.tables import Table


class Near(TrainStage):
    """The disambiguated labels of the discovery images, and the model that gave them."""

    table = "near"
    rows_per_part = 65_536

    def wanted(self, config: Config) -> bool:
        """Not of vectors without texts, unless a method asks for it, which is then refused."""
        vectors = config.embed.vectors
        return has_texts(vectors) or vectors.made_up or "near" in config.evaluate.methods

    def check(self, config: Config) -> None:
        """Refuse vectors without texts, and simulated ones, from which nothing can be learned."""
        check_texts(
            config,
            "NeaR",
            "take near out of evaluate.methods and set makd.target to heads or true; neighbours, candidates and "
            "duplicates work with any vectors",
        )

    def workers(self, config: Config) -> str | None:
        """The training workers."""
        return "near.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The labels, the vectors, the candidates, and augmented views where configured."""
        views = ("views",) if run.config.near.views > 1 else ()
        return ("samples", "labels", "embeddings", "candidates", *views)

    def works(self, run: Run) -> Work:
        """The discovery images, in every epoch."""
        return Work(sampled(run.config, run.photos), run.config.near.epochs)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The training recipe, and the CLIP model whose text side is trained."""
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

    def training(self, run: Run, folder: StageFolder) -> Training:
        """Prepare training from the input tables."""
        from fgvr.training.prompt import train_near
        from fgvr.training.prompt_data import NearJob

        near = run.config.near
        job = NearJob(
            settings=near,
            clip=vectors_at(run.config),
            labels=run.table("labels").uri,
            embeddings=run.table("embeddings").uri,
            candidates=run.table("candidates").uri,
            views=run.table("views").uri if near.views > 1 else None,
        )
        return Training(train_near, job, near.epochs)

    def models(self, checkpoint: Path) -> Mapping[str, Path]:
        """The learned prompts together with their names."""
        from fgvr.training.prompt_data import MODEL_FOLDER

        return {MODEL_FOLDER: checkpoint / MODEL_FOLDER}

    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """The chosen candidate of each image."""
        from fgvr.candidates.sets import disambiguate
        from fgvr.training.prompt_data import read_weights

        return disambiguate(run.table("candidates").read(), read_weights(checkpoint))

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """Record how often the true name was chosen, where it is known."""
        summary.metrics |= _against_truth(run.table("samples"), run.table("labels"), rows)
        summary.extra = {"images": rows.num_rows - rows["label_id"].null_count}


def _against_truth(samples: Table, labels: Table, rows: pa.Table) -> dict[str, float]:
    """Share of right labels after training among images whose true name is known; empty where none is."""
    from fgvr.arrays import NONE
    from fgvr.names.label_space import read_label_space, true_label_ids

    space = read_label_space(labels).labels
    names = samples.take(rows["image_id"].to_numpy(), ["class_name"])["class_name"].to_pylist()
    truth = true_label_ids(names, space)
    found = rows["label_id"].fill_null(NONE).to_numpy()
    known = (truth != NONE) & (found != NONE)
    return {"true_disambiguated_accuracy": float((found == truth)[known].mean())} if known.any() else {}


if __name__ == "__main__":
    stage_main(__doc__, "near")
