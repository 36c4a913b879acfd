"""label: the multimodal LLM names the discovery images. In: samples. Out: the labels table, a label space, aliases.

    python pipelines/label.py --label.images.max_images 500 --mllm.model OpenGVLab/InternVL3_5-8B-HF

Two tables. `answers`: what the model said, one row an image, computed in parallel parts and kept for ever. `labels`:
what it means, over all answers at once: cleaned names united into a label space. Beside the labels lie
`label_space.json` (names and counts, a name's place is its label id) and `aliases.csv` (answer, label, count), which
can be edited and given back with `--label.aliases`: the model is not asked again then.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import schemas, storage, tables
from fgvr.discovery import discovery_ids
from fgvr.mllm.aliases import read_aliases, write_aliases
from fgvr.mllm.backend import Sampling
from fgvr.mllm.backends import backend_identity
from fgvr.mllm.label_space import build_label_space, label_rows
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.tables import Table
from pipelines.flow import stage_main

LABEL_SPACE_FILE = "label_space.json"
ALIASES_FILE = "aliases.csv"


def run(context: RunContext, samples: Table) -> Table:
    """The labels of the discovery images."""
    config = context.config.label
    if config.aliases is not None:
        read_aliases(config.aliases)  # a slip in it shows before the model is asked for hours
    ids = discovery_ids(samples.read(["image_id", "split", "class_id"]), config.images)
    answers = answer(context, "answers", samples, ids)
    chosen = None if config.aliases is None else hashlib.sha256(storage.read_bytes(config.aliases)).hexdigest()
    return _name(context, "labels", [answers], config.aliases, decides={"aliases": chosen})


def name_images(context: RunContext, samples: Table, ids: npt.NDArray[np.int64], labels: Table, *, name: str) -> Table:
    """The labels of other images, asked and cleaned alike; an answer known from `labels` gets the same name.

    Args:
        context: the run.
        samples: the samples table.
        ids: int64 [n], ascending, images to name.
        labels: the labels table of the discovery images.
        name: of the new table.
    """
    answers = answer(context, f"{name}_answers", samples, ids)
    return _name(context, name, [answers, labels], labels.path(ALIASES_FILE), decides={})


def answer(context: RunContext, table: str, samples: Table, ids: npt.NDArray[np.int64]) -> Table:
    """The model's words about some images.

    Args:
        context: the run.
        table: its name.
        samples: the samples table.
        ids: int64 [n], ascending, images asked about.
    """
    config = context.config.label
    settings = LabelSettings(
        mllm=context.config.mllm,
        prompt=config.prompt,
        sampling=Sampling(config.max_tokens, config.temperature, config.seed),
        limits=context.config.ingest.limits,
        threads=max(2, int(config.workers.num_cpus)),
    )

    def compute(folder: StageFolder) -> StageSummary:
        job = PartJob(table, folder.uri, LabelWorker, {"settings": settings}, schemas.ANSWERS, samples, config.workers)
        return folder.run_parts(job, ids)

    decides: dict[str, Any] = {
        "mllm": backend_identity(settings.mllm),
        "prompt": settings.prompt,
        "sampling": [config.max_tokens, config.temperature, config.seed],
        "limits": settings.limits,
        "workers": config.workers,
        "ids": hashlib.sha256(ids.tobytes()).hexdigest(),
    }
    return context.stage(table, decides=decides, inputs=[samples], compute=compute)


def _name(
    context: RunContext, table: str, inputs: list[Table], aliases: str | None, *, decides: dict[str, Any]
) -> Table:
    """What the answers, the first of the inputs, mean: a labels table with its label space and alias table."""
    answers = inputs[0]

    def compute(folder: StageFolder) -> StageSummary:
        named = build_label_space(_distinct(answers), None if aliases is None else read_aliases(aliases))
        folder.write_bytes(LABEL_SPACE_FILE, named.space.to_json())
        folder.write_bytes(ALIASES_FILE, write_aliases(named.aliases))
        failures: Counter[str] = Counter()
        for number, part in enumerate(answers.batches()):
            rows = label_rows(part, named)
            tables.write_part(folder.uri, number, rows)
            failures.update(error["reason"] for error in rows["error"].to_pylist() if error is not None)
        return StageSummary(
            rows=answers.rows,
            failed=failures.total(),
            parts=answers.parts,
            rows_per_part=answers.rows_per_part,
            failures=dict(failures),
            metrics={
                "labels": float(len(named.space.labels)),
                "spellings": float(len(named.aliases)),
                "single_image_labels": float(sum(count == 1 for count in named.space.counts)),
            },
        )

    return context.stage(table, decides=decides, inputs=inputs, compute=compute)


def _distinct(answers: Table) -> Counter[str]:
    counts: Counter[str] = Counter()
    for part in answers.batches(["raw"]):
        counts.update(raw for raw in part["raw"].to_pylist() if raw is not None)
    return counts


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.labels)
