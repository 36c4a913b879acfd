"""duplicates: discovery images that show the same photo. In: samples, embeddings. Out: duplicates.

    python pipelines/duplicates.py --label.duplicate_similarity 0.98

One row a discovery image: the image of its group that the MLLM is asked about (`photo_id`, itself where it is that) and
the cosine similarity to it. `label` asks about these alone and gives their answers to the others; in neighbourhoods
such a group counts once. An image without a vector is a group of its own. docs/neighbours.md.
"""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.stage import RunContext, StageFolder, StageSummary, fingerprint_of
from fgvr import near_duplicates, schemas, storage
from fgvr.config import Config, ConfigError
from fgvr.discovery import discovery_ids
from fgvr.discovery_neighbours import streamed_layout
from fgvr.failures import Failures
from fgvr.mllm.shared_answers import shared_rows
from fgvr.neighbours import Ids, Size
from fgvr.neighbours.found import NOBODY
from fgvr.tables import Table
from pipelines import neighbours
from pipelines.flow import stage_main

log = logging.getLogger(__name__)
ROWS_PER_PART = 65_536
MADE_OF_FILE = "duplicates_made_of.json"
"""In the run's folder: settings of groups → revision of the embeddings that they were made of."""
PHOTOS_FILE = "photos.npy"
"""Beside a labels table: `photo_id` of each of its rows, int64 [N]; there where answers are shared."""
SHARED = "shared"
"""Key in the metadata of a labels table: how many of its images got the answer of another one."""


def run(context: RunContext, samples: Table, embeddings: Table, similarity: float) -> Table:
    """Groups of the discovery images, which are one photo from this cosine on.

    A run keeps its groups: a photo that gets its vector later, by run.retry_failed, stays a group of its own. In
    another group it would have the MLLM asked about other images, which is another table of answers: all of them anew.
    """
    decides: dict[str, Any] = {"images": context.config.label.images, "similarity": similarity}
    place = storage.join(context.folder, MADE_OF_FILE)
    made_of: dict[str, int] = json.loads(storage.read_bytes(place)) if storage.exists(place) else {}
    wanted = neighbours.wanted(context)
    asked = [decides, wanted.method, wanted.recall]
    settings = fingerprint_of("duplicates", asked, [samples, replace(embeddings, revision=0)])
    embeddings = replace(embeddings, revision=made_of.get(settings, embeddings.revision))
    ids = discovery_ids(samples.batches(["image_id", "split", "class_id"]), context.config.label.images)
    everyone = np.ones(len(ids), bool)
    search = neighbours.Search(
        context,
        "duplicates_neighbours",
        {"samples": samples, "embeddings": embeddings},
        size=Size(len(ids), len(ids), int(embeddings.extra["dim"])),
        k=1 + near_duplicates.NEIGHBOURS,
        among=lambda: neighbours.Among(ids, everyone),
    )

    def compute(folder: StageFolder) -> StageSummary:
        found, _ = search.find()
        who = streamed_layout(embeddings, ids, everyone)
        # Images with equal vectors are one anyway: the first of them stands for all.
        near = np.full_like(found.ids, NOBODY)
        near[who.members] = found.ids[who.members]
        groups = near_duplicates.group(near, found.scores, similarity)
        stands_in = np.arange(len(ids))
        stands_in[who.queries] = who.members[who.own]
        first = groups.first[stands_in]
        rows = pa.table([ids, ids[first], groups.similarity[stands_in]], schema=schemas.DUPLICATES)
        summary = folder.write_table(rows, ROWS_PER_PART)
        sizes = np.bincount(first, minlength=len(ids))
        photos = int((sizes > 0).sum())
        summary.metrics = {
            "photos": float(photos),
            "shared": float(len(ids) - photos),
            "largest_group": float(sizes.max(initial=0)),
            "recall": found.recall,
        }
        summary.extra = {"search": found.facts}
        log.info(
            "duplicates: %s images are %s photos (cosine %s and more), of the most frequent one there are %s",
            *(f"{len(ids):,}", f"{photos:,}", similarity, f"{sizes.max(initial=0):,}"),
        )
        return summary

    decides |= {"neighbours": search.decides, "rules": near_duplicates.RULES}
    inputs = [samples, embeddings, *search.inputs]
    table = context.stage("duplicates", decides=decides, inputs=inputs, compute=compute)
    if settings not in made_of:
        context.keep(MADE_OF_FILE, json.dumps(made_of | {settings: embeddings.revision}).encode())
    return table


def asked_ids(duplicates: Table) -> Ids:
    """The images that stand for their groups, int64, ascending."""
    rows = duplicates.read(["image_id", "photo_id"])
    return np.asarray(rows.filter(pc.equal(rows["image_id"], rows["photo_id"]))["image_id"].to_numpy(), np.int64)


def share(context: RunContext, answers: Table, duplicates: Table) -> Table:
    """The answers about all discovery images, from those about one of each group.

    Its rows have tokens, its metrics have none: they are those of `answers`, and the report adds all stages up.
    """

    def compute(folder: StageFolder) -> StageSummary:
        rows = duplicates.read(["image_id", "photo_id"])
        ids, photos = (rows[name].to_numpy() for name in ("image_id", "photo_id"))
        asked = ids[ids == photos]
        # Those that others get, too, are held: an image and its first one may be millions of rows apart.
        firsts = np.unique(photos[ids != photos])
        held = answers.find(firsts).combine_chunks()
        failures = Failures()
        for number in range(duplicates.parts):
            part = slice(number * duplicates.rows_per_part, (number + 1) * duplicates.rows_per_part)
            own = ids[part] == photos[part]
            # A table's place of a row is that of its id among the ids of the stage.
            mine = answers.take(np.searchsorted(asked, ids[part][own]))
            others = held.take(np.searchsorted(firsts, photos[part][~own]))
            places = np.argsort(np.concatenate([np.flatnonzero(own), np.flatnonzero(~own)]))
            given = shared_rows(pa.concat_tables([mine, others]).take(places), ids[part])
            folder.write_part(number, given)
            failures.add(Failures.in_rows(given))
        return StageSummary(
            rows=duplicates.rows,
            failed=failures.counts.total(),
            parts=duplicates.parts,
            rows_per_part=duplicates.rows_per_part,
            failures=dict(failures.counts),
            examples=failures.examples,
        )

    return context.stage("shared_answers", decides={}, inputs=[answers, duplicates], compute=compute)


def write_photos(folder: StageFolder, duplicates: Table) -> int:
    """Write `PHOTOS_FILE` beside a labels table; returns how many images got the answer of another one."""
    content = io.BytesIO()
    np.save(content, duplicates.read(["photo_id"])["photo_id"].to_numpy())
    folder.write_bytes(PHOTOS_FILE, content.getvalue())
    return int(duplicates.extra["metrics"]["shared"])


def _check(config: Config) -> None:
    if config.label.duplicate_similarity is None:
        raise ConfigError("label.duplicate_similarity is null: set the cosine from which images are one, e.g. 0.98")


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.duplicates, check=_check)
