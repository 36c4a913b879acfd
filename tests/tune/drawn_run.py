"""A small run whose upstream tables are there: drawn birds, labels of which a third is wrong, vectors, aspects."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from fgvr import schemas, storage, tables
from fgvr.clip.model import load_clip
from fgvr.clip.vectors import embedding_rows
from fgvr.config import Clip, Config, build
from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.species import SPECIES
from fgvr.images.read import read_image
from fgvr.tables import Table
from tests.given_run import GivenRun

NAMES = sorted(species.name for species in SPECIES)


class DrawnRun(GivenRun):
    """Computes samples, near and makd itself and is given the tables in between."""

    def given_labels(self) -> Table:
        random = np.random.default_rng(0)
        rows = []
        for sample in self._train():
            named = NAMES.index(sample["class_name"]) if random.random() > 1 / 3 else int(random.integers(len(NAMES)))
            own = {"candidate_ids": [named], "candidate_weights": [1.0]}
            rows.append({"image_id": sample["image_id"], "label": NAMES[named], "label_id": named} | own)
        table = self._committed("labels", pa.Table.from_pylist(rows, schemas.LABELS))
        storage.write_bytes(table.path("label_space.json"), json.dumps({"labels": NAMES, "counts": [1] * 36}).encode())
        return table

    def given_embeddings(self) -> Table:
        samples = self.table("samples").read().to_pylist()
        limits = self.context.config.ingest.limits
        features = load_clip(Clip()).encode_images([read_image(sample["uri"], limits) for sample in samples])
        ids = np.array([sample["image_id"] for sample in samples])
        return self._committed("embeddings", embedding_rows(ids, features, [None] * len(ids)))

    def given_questions(self) -> Table:
        rows = [{"question_id": n, "text": q.text, "rank": n + 1, "source": "guide"} for n, q in enumerate(QUESTIONS)]
        return self._committed("questions", pa.Table.from_pylist(rows, schemas.QUESTIONS))

    def given_aspects(self) -> Table:
        rows = [
            {"image_id": sample["image_id"], "p_yes": truths(SPECIES[sample["class_id"]].attributes).astype(float)}
            for sample in self._train()
        ]
        return self._committed("aspects", pa.Table.from_pylist(rows, schemas.aspects(len(QUESTIONS))))

    def _train(self) -> list[dict]:
        return [sample for sample in self.table("samples").read().to_pylist() if sample["split"] == "train"]

    def _committed(self, name: str, rows: pa.Table) -> Table:
        folder = storage.join(self.context.folder, "given", name)
        tables.write_part(folder, 0, rows)
        table = Table(folder, name, "given", rows.num_rows, 0, 1, rows.num_rows, 0.0)
        table.commit()
        return table


def small_config(folder: Path, **more) -> Config:
    """Trainings of two epochs with workers of one core."""
    tree = {
        "run": {"name": "small", "folder": str(folder)},
        "ingest": {"source": {"kind": "field_guide", "train_per_class": 6, "test_per_class": 1}},
        "near": {"epochs": 2, "lr": 0.01, "workers": {"num_cpus": 1}},
        "makd": {
            "backbone": "test_byobnet",
            "image_size": 32,
            "epochs": 2,
            "validation_share": 0.25,
            "schedule": "cosine",
            "workers": {"num_cpus": 1},
        },
        "tracking": {"log_models": False},
    }
    for part, values in more.items():
        tree[part] = tree.get(part, {}) | values
    return build(tree)


def swept_config(folder: Path) -> Config:
    """What `main` sweeps, with enough epochs to be killed in between."""
    return small_config(folder, near={"epochs": 6, "lr": 0.01, "batch_size": 8}, cluster={"num_cpus": 2})


def near_space(*_: object) -> dict:
    """In which all trials but the first one learn nothing."""
    from ray import tune

    return {"near.lr": tune.choice([0.01, 1e-9, 2e-9, 3e-9, 4e-9])}


def main() -> None:
    """A sweep of near in a process of its own."""
    import logging

    from cluster.run import open_run
    from tune import near_sweep
    from tune.sweep import Options, run

    logging.basicConfig(level=logging.INFO)
    near_sweep.near_space = near_space
    with open_run(swept_config(Path(sys.argv[1]))) as context:
        run(DrawnRun(context), Options("near", trials=2))


if __name__ == "__main__":
    main()
