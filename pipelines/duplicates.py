"""duplicates: discovery images that show the same photo. In: samples, embeddings. Out: duplicates.

    python pipelines/duplicates.py --label.duplicate_similarity 0.98

One row per discovery image: the representative of its group (`photo_id`, often the image itself) and the cosine
similarity to it. `label` asks the MLLM about representatives only and copies their answers to the rest of the group; in
neighbourhoods such a group counts once. An image without a vector is a group of its own. See docs/neighbours.md.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr import storage
from fgvr.config import Config, ConfigError
from pipelines.command import stage_main
from pipelines.embed import chosen_by, discovered
from pipelines.neighbours import Among, SearchStage
from pipelines.run_tables import Run, per_run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.neighbours import Size
    from fgvr.tables import Table


log = logging.getLogger(__name__)
ROWS_PER_PART = 65_536
MADE_OF_FILE = "duplicates_made_of.json"
"""In the run folder: settings of the groups → revision of the embeddings from which they were made."""
PHOTOS_FILE = "photos.npy"
"""Beside a labels table: `photo_id` of each of its rows, int64 [N]; exists only where answers are shared."""
SHARED = "shared"
"""Key in the metadata of a labels table: how many of its images got the answer of another image."""


class DuplicatesNeighbours(SearchStage):
    """The nearest images of every discovery image."""

    table = "duplicates_neighbours"

    def consults(self, run: Run) -> Iterable[str]:
        """What decides the discovery set."""
        return ("samples", *chosen_by(run.config))

    def reads(self, run: Run) -> Iterable[str]:
        """The embeddings."""
        return ("embeddings",)

    def versions(self, run: Run) -> Mapping[str, str]:
        """The version of the embeddings from which the run's groups were made."""
        return embeddings_version(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also the images: neither the vectors nor the settings of the search say which are among them."""
        from cluster.fingerprint import digest_of_ids

        return super().recipe(run) | {"ids": digest_of_ids(discovered(run))}

    def size(self, run: Run) -> Size:
        """All discovery images are both queries and database."""
        from fgvr.neighbours import Size

        count = len(discovered(run))
        return Size(count, count, int(run.table("embeddings").extra["dim"]))

    def k(self, config: Config) -> int:
        """The largest number of copies of one photo that are found."""
        from fgvr.neighbours import duplicates

        return 1 + duplicates.NEIGHBOURS

    def among(self, run: Run) -> Among:
        """All discovery images, each searched among all others."""
        ids = discovered(run)
        return Among(ids, np.ones(len(ids), bool))


SEARCH = DuplicatesNeighbours()


class Duplicates(Stage):
    """Groups of discovery images that count as one photo: their similarity is at least `label.duplicate_similarity`.

    A run keeps its groups: a photo that gets its vector later, by run.retry_failed, stays a group of its own. If it
    joined another group, the MLLM would be asked about other images, which would make another table of answers and ask
    everything again. So the fingerprint holds the revision of the embeddings from which the groups were made
    (`versions`).
    """

    table = "duplicates"

    def consults(self, run: Run) -> Iterable[str]:
        """What chose the images."""
        return chosen_by(run.config)

    def reads(self, run: Run) -> Iterable[str]:
        """The embeddings, and the neighbour search where it is a stage of its own."""
        yield from ("samples", "embeddings")
        yield from SEARCH.names(run)

    def versions(self, run: Run) -> Mapping[str, str]:
        """The version of the embeddings from which the run's groups were made."""
        return embeddings_version(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The ids of the images, the similarity threshold, and how neighbours are found."""
        from fgvr.neighbours import duplicates

        return _settings(run.config) | _chosen(run) | {"neighbours": SEARCH.decides(run), "rules": duplicates.RULES}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Group images with the neighbours that reach the threshold."""
        import pyarrow as pa

        from fgvr import schemas
        from fgvr.neighbours import duplicates
        from fgvr.neighbours.discovery import streamed_layout
        from fgvr.neighbours.found import NOBODY

        ids, similarity = discovered(run), float(run.config.label.duplicate_similarity or 0)
        found, _ = SEARCH.find(run)
        who = streamed_layout(run.table("embeddings"), ids, np.ones(len(ids), bool))
        # The search merges images with equal vectors already: the first of them stands for all.
        near = np.full_like(found.ids, NOBODY)
        near[who.members] = found.ids[who.members]
        groups = duplicates.group(near, found.scores, similarity)
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
            "duplicates: %s images are %s photos (cosine of at least %s); the most frequent one occurs %s times",
            *(f"{len(ids):,}", f"{photos:,}", similarity, f"{sizes.max(initial=0):,}"),
        )
        return summary

    def made(self, run: Run, table: Table) -> None:
        """Remember from which embeddings the groups were made."""
        made_of, settings = _made_of(run), _settings_key(run)
        if settings not in made_of:
            run.keep(MADE_OF_FILE, json.dumps(made_of | {settings: run.table("embeddings").revision}).encode())


def embeddings_version(run: Run) -> Mapping[str, str]:
    """The version of the embeddings from which the run's groups were made, where it is not the current one."""
    revision = _made_of(run).get(_settings_key(run))
    embeddings = run.table("embeddings")
    return {} if revision is None else {"embeddings": f"{embeddings.fingerprint}.{revision}"}


@per_run
def _settings_key(run: Run) -> str:
    """The key of the groups, independent of the revision of their embeddings."""
    from cluster.fingerprint import fingerprint_of

    search, embeddings = run.config.neighbours, run.table("embeddings")
    first = {"embeddings": f"{embeddings.fingerprint}.0"}
    decides = [_settings(run.config) | _chosen(run), search.method, search.recall]
    return fingerprint_of("duplicates", decides, [run.table("samples"), embeddings], first)


def _settings(config: Config) -> dict[str, Any]:
    return {"images": config.label.images, "similarity": config.label.duplicate_similarity}


def _chosen(run: Run) -> dict[str, str]:
    """The discovery images, where their vectors chose them: the settings alone do not say which they are."""
    from cluster.fingerprint import digest_of_ids

    return {"ids": digest_of_ids(discovered(run))} if run.config.label.images.chosen else {}


def _made_of(run: Run) -> dict[str, int]:
    place = storage.join(run.folder, MADE_OF_FILE)
    known: dict[str, int] = json.loads(storage.read_bytes(place)) if storage.exists(place) else {}
    return known


def asked_ids(run: Run) -> Ids:
    """The representatives of the groups, int64, ascending."""
    import pyarrow.compute as pc

    rows = run.table("duplicates").read(["image_id", "photo_id"])
    return np.asarray(rows.filter(pc.equal(rows["image_id"], rows["photo_id"]))["image_id"].to_numpy(), np.int64)


class SharedAnswers(Stage):
    """The answers for all discovery images, copied from the representative of each group.

    Its rows have token counts, but its metrics have none: `answers` has counted them, and the report sums over all
    stages.
    """

    table = "shared_answers"

    def reads(self, run: Run) -> Iterable[str]:
        """The answers, and the groups."""
        return ("answers", "duplicates")

    def recipe(self, run: Run) -> dict[str, Any]:
        """Nothing besides the tables it reads."""
        return {}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Work on one part of the images at a time; only answers that several images share stay in memory."""
        import pyarrow as pa

        from cluster.stage import StageSummary
        from fgvr.failures import Failures
        from fgvr.neighbours.duplicates import shared_rows

        answers, duplicates = run.table("answers"), run.table("duplicates")
        rows = duplicates.read(["image_id", "photo_id"])
        ids, photos = (rows[name].to_numpy() for name in ("image_id", "photo_id"))
        # Keep shared answers: an image and its representative may be millions of rows apart.
        firsts = np.unique(photos[ids != photos])
        held = answers.find(firsts).combine_chunks()
        failures = Failures()
        for number in range(duplicates.parts):
            part = slice(number * duplicates.rows_per_part, (number + 1) * duplicates.rows_per_part)
            own = ids[part] == photos[part]
            mine = answers.find(ids[part][own])
            others = held.take(np.searchsorted(firsts, photos[part][~own]))
            places = np.argsort(np.concatenate([np.flatnonzero(own), np.flatnonzero(~own)]))
            given = shared_rows(pa.concat_tables([mine, others]).take(places), ids[part])
            folder.write_part(number, given)
            failures.add(Failures.in_rows(given))
        size = {"parts": duplicates.parts, "rows_per_part": duplicates.rows_per_part}
        return StageSummary.of(duplicates.rows, failures, **size)


def write_photos(folder: StageFolder, duplicates: Table, others: Sequence[int] = ()) -> int:
    """Write `PHOTOS_FILE` beside a labels table; returns how many images got the answer of another image.

    `others`: ascending ids of images in the labels that are not in `duplicates`: photos of their own.
    """
    content, rows = io.BytesIO(), duplicates.read(["image_id", "photo_id"])
    photos = dict(zip(rows["image_id"].to_pylist(), rows["photo_id"].to_pylist(), strict=True))
    photos |= {image: image for image in others}
    np.save(content, np.array([photos[image] for image in sorted(photos)], np.int64))
    folder.write_bytes(PHOTOS_FILE, content.getvalue())
    return int(duplicates.extra["metrics"]["shared"])


def _check(config: Config) -> None:
    if config.label.duplicate_similarity is None:
        raise ConfigError("label.duplicate_similarity is null: set the cosine of equal photos, e.g. 0.98")


def photos_of(labels: Table, ids: Ids) -> Ids | None:
    """Row of the image whose answer each discovery image got, int64 [N]; None: every image has an answer of its own."""
    if not labels.extra.get(SHARED):
        return None
    asked = np.load(io.BytesIO(storage.read_bytes(labels.path(PHOTOS_FILE))))
    rows: Ids = np.searchsorted(ids, asked).astype(np.int64)
    return rows


if __name__ == "__main__":
    stage_main(__doc__, "duplicates", check=_check)
