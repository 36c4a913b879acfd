"""label: the multimodal LLM names the discovery images. In: samples. Out: the labels table, a label space, aliases.

    python pipelines/label.py --label.images.max_images 500 --mllm.model OpenGVLab/InternVL3_5-8B-HF

Two tables. `answers`: what the model said, one row an image, computed in parallel parts and kept for ever. `labels`:
what it means, over all answers at once: cleaned names, and aliases of one name (`label.merge_similarity`), united into
a label space. With `label.samples` (several sampled answers) or `label.listed` (several labels an answer) an image has
weighted candidates of its own; the heaviest is its label. Beside the labels lie `label_space.json` (names and counts,
a name's place is its label id) and `aliases.csv` (answer, label, count), which can be edited and given back with
`--label.aliases`: the model is not asked again then. With `label.duplicate_similarity`, `answers` has a row for one
image of each group of near-duplicates (`pipelines/duplicates.py`), and a third table, `shared_answers`, one for all.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas, storage, tables
from fgvr.config import Config, Label
from fgvr.discovery import discovery_ids
from fgvr.failures import Failures
from fgvr.metrics.semantic import SentenceBert, find_sentence_model
from fgvr.mllm.aliases import read_aliases, write_aliases
from fgvr.mllm.backend import Sampling
from fgvr.mllm.backends import backend_identity
from fgvr.mllm.label_rows import count_items, label_rows
from fgvr.mllm.label_space import LABEL_SPACE_FILE, Merge, build_label_space
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.merging import merge_aliases
from fgvr.tables import Table
from pipelines.duplicates import SHARED, asked_ids, share, write_photos
from pipelines.flow import stage_main
from pipelines.look_parts import take_part

ALIASES_FILE = "aliases.csv"


def run(context: RunContext, samples: Table, looks: Table | None = None, duplicates: Table | None = None) -> Table:
    """The labels of the discovery images, by what was answered in `looks`, else by asking.

    Args:
        context: the run.
        samples: the samples table.
        looks: of images that are asked for labels and aspects in one pass.
        duplicates: which images are one photo: one of them is asked about.
    """
    config = context.config.label
    if config.aliases is not None:
        read_aliases(config.aliases)  # a slip in it shows before the model is asked for hours
    if config.merges_by_meaning:
        find_sentence_model(config.merge_model, "label.merge_model")  # and a slip in this
    ids = discovery_ids(samples.batches(["image_id", "split", "class_id"]), config.images)
    if duplicates is not None:
        asked = answer(context, "answers", samples, asked_ids(duplicates), several=True)
        answers = share(context, asked, duplicates)
    elif looks is None:
        answers = answer(context, "answers", samples, ids, several=True)
    else:
        answers = take_part(context, looks, "answers", column="answer", ids=ids, schema=schemas.ANSWERS)
    chosen = None if config.aliases is None else hashlib.sha256(storage.read_bytes(config.aliases)).hexdigest()
    decides = {"aliases": chosen}
    return name_answers(
        context,
        "labels",
        [answers],
        config.aliases,
        decides=decides,
        listed=config.listed,
        merge=True,
        duplicates=duplicates,
    )


def name_images(context: RunContext, samples: Table, ids: npt.NDArray[np.int64], labels: Table, *, name: str) -> Table:
    """The labels of other images, asked once; an answer known from `labels` gets the same name, and others are cleaned.

    Args:
        context: the run.
        samples: the samples table.
        ids: int64 [n], ascending, images to name.
        labels: the labels table of the discovery images.
        name: of the new table.
    """
    answers = answer(context, f"{name}_answers", samples, ids)
    return name_answers(context, name, [answers, labels], labels.path(ALIASES_FILE))


def answer(
    context: RunContext,
    table: str,
    samples: Table,
    ids: npt.NDArray[np.int64],
    *,
    several: bool = False,
    prompt: str | None = None,
) -> Table:
    """The model's words about some images.

    Args:
        context: the run.
        table: its name.
        samples: the samples table.
        ids: int64 [n], ascending, images asked about.
        several: ask as often and for as many labels as `label.samples` and `label.listed` say, else for one label once.
        prompt: what is asked; None: what the config says.
    """
    config = context.config.label
    settings = label_settings(context.config, several=several)
    if prompt is not None:
        settings = replace(settings, prompt=prompt)

    def compute(folder: StageFolder) -> StageSummary:
        job = PartJob(table, folder.uri, LabelWorker, {"settings": settings}, schemas.ANSWERS, samples, config.workers)
        return folder.run_parts(job, ids)

    decides = answer_decides(settings) | {"workers": config.workers, "ids": digest_of_ids(ids)}
    return context.stage(table, decides=decides, inputs=[samples], compute=compute)


def answer_decides(settings: LabelSettings) -> dict[str, Any]:
    """What decides the answers about an image."""
    sampling = settings.sampling
    return {
        "mllm": backend_identity(settings.mllm),
        "prompt": settings.prompt,
        "sampling": [sampling.max_tokens, sampling.temperature, sampling.seed],
        "samples": settings.samples,
        "limits": settings.limits,
    }


def label_settings(config: Config, *, several: bool) -> LabelSettings:
    """How the discovery images are asked about (`several`), or others: once, for the one most probable label.

    Where several answers are sampled, a temperature serves their variety; a single answer is better without.
    """
    asked = config.label
    listed, samples = (asked.listed, asked.samples) if several else (1, 1)
    temperature = asked.temperature if samples == asked.samples else 0.0
    return LabelSettings(
        mllm=config.mllm,
        prompt=asked.prompt if listed == 1 else asked.listed_prompt.replace("{k}", str(listed)),
        sampling=Sampling(asked.max_tokens * listed, temperature, asked.seed),
        limits=config.ingest.limits,
        samples=samples,
        threads=max(2, int(asked.workers.num_cpus)),
    )


def _merge(config: Label) -> Merge | None:
    """Unites names that mean one thing, as `label.merge_similarity` says; the model is loaded where it is needed."""
    similarity = config.merge_similarity
    if similarity is None:
        return None
    return lambda names: merge_aliases(
        names, lambda: SentenceBert(config.merge_model, field="label.merge_model"), similarity
    )


def _merge_identity(config: Label) -> Any:
    if not config.merges_by_meaning:
        return config.merge_similarity
    return [config.merge_similarity, find_sentence_model(config.merge_model, "label.merge_model")[1]]


def name_answers(
    context: RunContext,
    table: str,
    inputs: list[Table],
    aliases: str | None,
    *,
    decides: dict[str, Any] | None = None,
    listed: int = 1,
    merge: bool = False,
    duplicates: Table | None = None,
) -> Table:
    """A labels table with its label space and alias table.

    Args:
        context: the run.
        table: its name.
        inputs: tables that it is made of; the first one has the answers.
        aliases: file of labels chosen before; None: there are none.
        decides: what else decides the content.
        listed: names that each answer was asked for.
        merge: unite aliases of one name, as the config says.
        duplicates: whose answers are shared; it decided `inputs`.
    """
    answers, config = inputs[0], context.config.label
    decides = (decides or {}) | {"listed": listed, "merge": _merge_identity(config) if merge else None}

    def compute(folder: StageFolder) -> StageSummary:
        items = count_items(answers.batches(["texts", "error"]), listed)
        chosen = None if aliases is None else read_aliases(aliases)
        named = build_label_space(items, chosen, _merge(config) if merge else None)
        folder.write_bytes(LABEL_SPACE_FILE, named.space.to_json())
        folder.write_bytes(ALIASES_FILE, write_aliases(named.aliases))
        shared = 0 if duplicates is None else write_photos(folder, duplicates)
        failures = Failures()
        for number, part in enumerate(answers.batches()):
            rows = label_rows(part, named, listed)
            tables.write_part(folder.uri, number, rows)
            failures.add(Failures.in_rows(rows))
        return StageSummary(
            rows=answers.rows,
            failed=failures.counts.total(),
            parts=answers.parts,
            rows_per_part=answers.rows_per_part,
            failures=dict(failures.counts),
            examples=failures.examples,
            metrics={
                "labels": float(len(named.space.labels)),
                "spellings": float(len(named.aliases)),
                "single_image_labels": float(sum(count == 1 for count in named.space.counts)),
            },
            extra={SHARED: shared} if shared else {},
        )

    return context.stage(table, decides=decides, inputs=inputs, compute=compute)


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.labels)
