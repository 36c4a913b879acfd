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
import logging
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas, storage, tables
from fgvr.config import Config, Label
from fgvr.config.near import LISTED_PROMPT, LISTED_QUESTION
from fgvr.discovery import discovery_ids
from fgvr.failures import Failures
from fgvr.metrics.semantic import SentenceBert, look_up
from fgvr.mllm.aliases import read_aliases, write_aliases
from fgvr.mllm.answer_items import Form
from fgvr.mllm.answers import READER
from fgvr.mllm.backend import Sampling
from fgvr.mllm.backends import backend_engine, backend_identity, exactly
from fgvr.mllm.label_rows import count_items, label_rows
from fgvr.mllm.label_space import LABEL_SPACE_FILE, Merge, build_label_space
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.merging import merge_aliases
from fgvr.mllm.structured import extra_tokens, instruction
from fgvr.tables import Table
from pipelines.cut_answers import note_cut_answers
from pipelines.duplicates import SHARED, asked_ids, share, write_photos
from pipelines.flow import stage_main
from pipelines.look_parts import take_part

log = logging.getLogger(__name__)

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
        look_up(config.merge_model, "label.merge_model")  # and a slip in this
    ids = discovery_ids(samples.batches(["image_id", "split", "class_id"]), config.images)
    if duplicates is not None:
        asked = answer(context, "answers", samples, asked_ids(duplicates), several=True)
        answers = share(context, asked, duplicates)
    elif looks is None:
        answers = answer(context, "answers", samples, ids, several=True)
    else:
        limit = token_limit(config, config.listed)
        answers = take_part(context, looks, "answers", column="answer", ids=ids, schema=schemas.ANSWERS, limit=limit)
    chosen = None if config.aliases is None else hashlib.sha256(storage.read_bytes(config.aliases)).hexdigest()
    decides = {"aliases": chosen}
    return name_answers(
        context,
        "labels",
        [answers],
        config.aliases,
        decides=decides,
        form=Form(config.listed, config.answer == "structured"),
        limit=token_limit(config, config.listed),
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
    config = context.config.label
    form = Form(structured=config.answer == "structured")
    return name_answers(
        context, name, [answers, labels], labels.path(ALIASES_FILE), form=form, limit=token_limit(config)
    )


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
        prompt: what is asked, for an answer in free words; None: what the config says.
    """
    config = context.config.label
    settings = label_settings(context.config, several=several)
    settings = replace(settings, mllm=exactly(settings.mllm))
    if prompt is not None:
        free = replace(settings.sampling, max_tokens=config.max_tokens, structured=None)
        settings = replace(settings, prompt=prompt, sampling=free)

    def compute(folder: StageFolder) -> StageSummary:
        job = PartJob(
            table,
            folder.uri,
            LabelWorker,
            {"settings": settings},
            schemas.ANSWERS,
            samples,
            config.workers,
            engine=backend_engine(settings.mllm),
        )
        summary = folder.run_parts(job, ids)
        note_cut_answers(summary, token_limit(config, config.listed if several else 1))
        return summary

    decides = answer_decides(settings) | {"workers": config.workers, "ids": digest_of_ids(ids)}
    return context.stage(table, decides=decides, inputs=[samples], compute=compute, workers=config.workers)


def answer_decides(settings: LabelSettings) -> dict[str, Any]:
    """What decides the answers about an image."""
    sampling = settings.sampling
    # What came later decides only where it is used: tables of before are found again.
    held = {} if sampling.structured is None else {"structured": sampling.structured}
    return {
        "mllm": backend_identity(settings.mllm),
        "prompt": settings.prompt,
        "sampling": [sampling.max_tokens, sampling.temperature, sampling.seed],
        "samples": settings.samples,
        "limits": settings.limits,
    } | held


def label_settings(config: Config, *, several: bool) -> LabelSettings:
    """How the discovery images are asked about (`several`), or others: once, for the one most probable label.

    Where several answers are sampled, a temperature serves their variety; a single answer is better without.
    """
    asked = config.label
    listed, samples = (asked.listed, asked.samples) if several else (1, 1)
    temperature = asked.temperature if samples == asked.samples else 0.0
    structured = listed if asked.answer == "structured" else None
    tokens = asked.max_tokens * listed + (0 if structured is None else extra_tokens(listed))
    return LabelSettings(
        mllm=config.mllm,
        prompt=_prompt(asked, listed),
        sampling=Sampling(tokens, temperature, asked.seed, structured),
        limits=config.ingest.limits,
        samples=samples,
        threads=max(2, int(asked.workers.num_cpus)),
    )


def _prompt(asked: Label, listed: int) -> str:
    """What is asked for so many labels; for a structured answer its form is said behind it."""
    if asked.answer == "free":
        return asked.prompt if listed == 1 else asked.listed_prompt.replace("{k}", str(listed))
    # The prompt for lists as it stands by default says how to write lines, which are not wanted here.
    question = LISTED_QUESTION if asked.listed_prompt == LISTED_PROMPT else asked.listed_prompt
    question = asked.prompt if listed == 1 else question.replace("{k}", str(listed))
    return f"{question} {instruction(listed)}"


def token_limit(asked: Label, listed: int = 1) -> str:
    """What limits the tokens of an answer with so many labels, as messages say it."""
    limit = f"label.max_tokens = {asked.max_tokens}"
    return limit if listed == 1 else f"{limit} (× {listed} labels)"


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
    return [config.merge_similarity, look_up(config.merge_model, "label.merge_model").identity()]


def name_answers(
    context: RunContext,
    table: str,
    inputs: list[Table],
    aliases: str | None,
    *,
    decides: dict[str, Any] | None = None,
    form: Form | None = None,
    limit: str | None = None,
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
        form: how the answers were asked for; None: for one label in free words.
        limit: what limits an answer's tokens, for those that were cut off.
        merge: unite aliases of one name, as the config says.
        duplicates: whose answers are shared; it decided `inputs`.
    """
    answers, config = inputs[0], context.config.label
    form = form or Form()
    listed, structured = form.listed, form.structured
    decides = (decides or {}) | {
        "listed": listed,
        "merge": _merge_identity(config) if merge else None,
        "reader": READER,
    }
    decides |= {"structured": True} if structured else {}

    def compute(folder: StageFolder) -> StageSummary:
        # All columns: a table that an earlier version made has no `cut`.
        items = count_items(answers.batches(), listed, structured=structured)
        chosen = None if aliases is None else read_aliases(aliases)
        named = build_label_space(items, chosen, _merge(config) if merge else None)
        folder.write_bytes(LABEL_SPACE_FILE, named.space.to_json())
        _write_aliases(folder, write_aliases(named.aliases))
        shared = 0 if duplicates is None else write_photos(folder, duplicates)
        failures = Failures()
        for number, part in enumerate(answers.batches()):
            rows = label_rows(part, named, listed, structured=structured, limit=limit)
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


def _write_aliases(folder: StageFolder, content: bytes) -> None:
    """The file of aliases, which people edit: where failed rows are tried again, what they made of it is kept."""
    place = folder.path(ALIASES_FILE)
    before = storage.read_bytes(place) if storage.exists(place) else content
    if before != content:
        stem, ending = ALIASES_FILE.rsplit(".", 1)
        number = next(number for number in count(1) if not storage.exists(folder.path(f"{stem}.{number}.{ending}")))
        kept = f"{stem}.{number}.{ending}"
        folder.write_bytes(kept, before)
        log.info("%s: %s is written anew; the one that was there is kept as %s", folder.name, place, kept)
    folder.write_bytes(ALIASES_FILE, content)


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.labels, asks=("labels",))
