"""selection: which images the MLLM is asked about, chosen by their vectors. In: samples, embeddings. Out: selected.

    python pipelines/selection.py --label.images.select medoids --label.images.max_images 3000

Two tables. `space`: a whitening of the vectors without labels, in which neighbours share their kind more often; the map
lies beside it as `whitening.npz`. `selected`: the images to ask about, one per k-means cluster of that space, with what
each stands for. No model is asked. With `label.rounds` 2, `first_selected` has the first half, and `selected` both: the
second half is chosen after the first answers (`pipelines/rounds.py`). See docs/selection.md.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.errors import UserError
from pipelines.command import stage_main
from pipelines.embed import pool
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.selection.choose import How
    from fgvr.selection.task import FirstRound, Pool, Wanted
    from fgvr.selection.whitening import Whitening
    from fgvr.tables import Table

log = logging.getLogger(__name__)

Result = TypeVar("Result")
WORKERS = "neighbours.workers"
FILES = "files"
WHITENING_FILE = "whitening.npz"
MADE_OF_FILE = "selected_made_of.json"
"""In the run folder: settings of a selection → versions of the tables from which it was made."""
COUNTS, DOUBLED = "reach", "reach_of_twice_as_many"
"""Keys in the metadata of `selected`: the images by their cosine to the nearest asked one (`coverage.Reach.counts`)."""


class SelectionError(UserError):
    """There is nothing to choose from."""


class OfThePool(Stage):
    """A stage that computes with the vectors of the pool: here, or where a GPU is reserved for searches, on it."""

    one_call = True

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The split from which images are chosen."""
        return [("label.images.split", config.label.images.drawn_from)]

    def workers(self, config: Config) -> str | None:
        """A worker of the neighbour search, if it has a GPU."""
        return WORKERS if config.neighbours.workers.num_gpus else None

    def reads(self, run: Run) -> Iterable[str]:
        """The samples, which decide the pool, and its vectors."""
        return ("samples", "embeddings")

    def with_pool(self, run: Run, folder: StageFolder, work: Callable[[Pool], Result]) -> tuple[Result, int]:
        """Call `work` with the pool's vectors in files; returns its result, and how many images have a vector.

        Raises:
            SelectionError: no image of the pool has a vector.
        """
        from cluster import lease
        from cluster.once import run_once
        from fgvr.neighbours.discovery import vector_blocks
        from fgvr.neighbours.search_worker import write
        from fgvr.selection.task import Pool

        embeddings, workers = run.table("embeddings"), run.config.neighbours.workers
        ids = with_vectors(embeddings, pool(run))
        if not len(ids):
            raise SelectionError(
                f"{self.table}: none of the {len(pool(run)):,} images to choose from has a vector; see the failed rows "
                f"of {embeddings.uri}"
            )
        place, scratch = folder.path(FILES, "vectors"), folder.path(FILES, "whitened")
        write(place, ids, int(embeddings.extra["dim"]), vector_blocks(embeddings, ids))
        if workers.num_gpus:
            there = Pool(place, scratch, max(1, int(workers.num_cpus)), "cuda")
            result = run_once(work, there, workers=workers)
        else:
            result = work(Pool(place, scratch, len(os.sched_getaffinity(0))))
        lease.check(folder.uri)
        storage.remove(folder.path(FILES))
        return result, len(ids)


def with_vectors(embeddings: Table, ids: Ids) -> Ids:
    """Those of `ids` (int64, ascending) that have a vector, which is finite."""
    import numpy as np

    from fgvr.neighbours.discovery import vector_blocks

    return np.concatenate([np.zeros(0, np.int64), *(here for here, _ in vector_blocks(embeddings, ids))])


class Space(OfThePool):
    """The whitened space of the images among which those to label are chosen: one row per direction.

    It is made without any label, of the images of `label.images.pool` that have a vector. Selection, prototypes and
    heads work in it.
    """

    table = "space"

    def recipe(self, run: Run) -> dict[str, Any]:
        """The images, and the rules of the whitening."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.selection import whitening

        return {"pool": digest_of_ids(pool(run)), "rules": whitening.RULES}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Whiten, and write the map beside the rows."""
        import numpy as np
        import pyarrow as pa

        from fgvr import schemas
        from fgvr.selection.task import fit_pool

        whitening, count = self.with_pool(run, folder, fit_pool)
        folder.write_bytes(WHITENING_FILE, whitening.to_bytes())
        scatter = np.linalg.eigvalsh(whitening.matrix) ** -2.0
        columns = [pa.array(np.arange(len(scatter)), pa.int32()), pa.array(scatter, pa.float64())]
        summary = folder.write_table(pa.table(columns, schema=schemas.SPACE))
        missing = len(pool(run)) - count
        summary.metrics = {"images": float(count), "without_vector": float(missing), "pairs": float(whitening.pairs)}
        summary.extra = {"dim": len(scatter)}
        summary.remarks = _remarks(whitening.pairs, count)
        return summary


def _remarks(pairs: int, images: int) -> tuple[str, ...]:
    """What a reader must know of a space that rests on few pairs of neighbours."""
    from fgvr.selection.whitening import ANCHORS, NEAR_DUPLICATE, NEIGHBOURS

    if not pairs:
        return ("no two images are neighbours without being one photo: the space is not whitened",)
    usual = min(ANCHORS, images) * min(NEIGHBOURS, images - 1)
    if 2 * pairs >= usual:
        return ()
    return (
        f"only {pairs:,} of {usual:,} pairs of neighbours are no near-duplicates (cosine below {NEAR_DUPLICATE:g}): "
        "either most photos are taken several times, or these vectors lie so close together that the cosine does not "
        "say; then set label.duplicate_similarity higher, since otherwise different photos count as one",
    )


def read_whitening(space: Table) -> Whitening:
    """The whitening beside a table `space`."""
    from fgvr.selection.whitening import Whitening

    return Whitening.from_bytes(storage.read_bytes(space.path(WHITENING_FILE)))


class SelectStage(OfThePool):
    """Images that the MLLM is asked about.

    A run keeps its selection while the settings are the same: a photo that gets its vector later, by run.retry_failed,
    or other photos that are embedded, too, would make another selection, and everything would be asked again. So the
    fingerprint holds the versions of the tables from which it was first made (`versions`).
    """

    def check(self, config: Config) -> None:
        """Raise ConfigError where images are drawn at random."""
        if not config.label.images.chosen:
            raise ConfigError(
                "label.images.select is random: nothing is chosen; set it to medoids or typical (docs/selection.md)"
            )

    def consults(self, run: Run) -> Iterable[str]:
        """The samples, which decide the pool."""
        return ("samples",)

    def reads(self, run: Run) -> Iterable[str]:
        """The vectors, and their space."""
        return (*super().reads(run), "space")

    def count(self, run: Run) -> int:
        """How many images are asked about at most, an earlier round included."""
        return int(run.config.label.images.max_images or 0)

    def first(self, run: Run) -> FirstRound | None:
        """The images of an earlier round."""
        return None

    def versions(self, run: Run) -> Mapping[str, str]:
        """The versions of the tables from which the run's selection was made."""
        return _made_of(run).get(self._key(run), {})

    def recipe(self, run: Run) -> dict[str, Any]:
        """The images to choose from, how many and how they are chosen."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.selection import choose, kmeans, whitening

        images = run.config.label.images
        return {
            "pool": digest_of_ids(pool(run)),
            "count": self.count(run),
            "how": images.select,
            "seed": images.seed,
            "duplicate": self.wish(run).duplicate,
            "rules": [choose.RULES, kmeans.RULES, whitening.RULES],
        }

    def wish(self, run: Run) -> Wanted:
        """What is wanted; near-duplicates are what `label.duplicate_similarity` says, where it says anything."""
        from fgvr.selection.task import Wanted
        from fgvr.selection.whitening import NEAR_DUPLICATE

        images, duplicate = run.config.label.images, run.config.label.duplicate_similarity
        how: How = "typical" if images.select == "typical" else "medoids"
        return Wanted(self.count(run), how, images.seed, NEAR_DUPLICATE if duplicate is None else duplicate)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Choose, and measure how near the other images are to those chosen."""
        from fgvr.selection.task import select

        whitening, wanted = read_whitening(run.table("space")), self.wish(run)
        work = partial(select, whitening=whitening, wanted=wanted, first=self.first(run))
        selection, there = self.with_pool(run, folder, work)
        summary = folder.write_table(selection.rows)
        chosen, why = selection.rows.num_rows, selection.rows["why"].to_pylist()
        summary.metrics = {
            "pool": float(len(pool(run))),
            "without_vector": float(len(pool(run)) - there),
            "chosen": float(chosen),
            **{reason: float(why.count(reason)) for reason in sorted(set(why))},
            **_classes(run, selection.rows["image_id"].to_numpy()),
        }
        doubled = None if selection.doubled is None else selection.doubled.tolist()
        summary.extra = {COUNTS: selection.counts.tolist(), DOUBLED: doubled}
        if chosen < min(wanted.count, there):
            summary.remarks = (
                f"only {chosen:,} of {there:,} images are no near-duplicates of each other (cosine below "
                f"{wanted.duplicate:g}), so that fewer are asked about than the {wanted.count:,} of "
                "label.images.max_images",
            )
        log.info(
            "%s: %s of %s images; of %s more, which have no vector, none can be chosen",
            self.table,
            *(f"{count:,}" for count in (chosen, there, len(pool(run)) - there)),
        )
        return summary

    def made(self, run: Run, table: Table) -> None:
        """Remember from which tables the selection was made."""
        made_of, key = _made_of(run), self._key(run)
        if key not in made_of:
            versions = {name: run.table(name).version for name in self.reads(run) if name != "samples"}
            run.keep(MADE_OF_FILE, json.dumps(made_of | {key: versions}).encode())

    def decided_by(self, run: Run) -> dict[str, Any]:
        """What decides the selection, besides the recipe: how vectors are made, whatever else is embedded."""
        made = stage_of("embeddings").recipe(run)
        return {name: value for name, value in made.items() if name not in {"splits", "ids"}}

    def _key(self, run: Run) -> str:
        from cluster.fingerprint import fingerprint_of

        return fingerprint_of(self.table, [self.recipe(run), self.decided_by(run)], [run.table("samples")])


def _made_of(run: Run) -> dict[str, dict[str, str]]:
    place = storage.join(run.folder, MADE_OF_FILE)
    known: dict[str, dict[str, str]] = json.loads(storage.read_bytes(place)) if storage.exists(place) else {}
    return known


def _classes(run: Run, asked: Ids) -> dict[str, float]:
    """The true classes of the pool, and how many of them are asked about, where the source knows any."""
    known = _classes_of(run.table("samples"), pool(run))
    if not known:
        return {}
    return {"classes": float(len(known)), "classes_reached": float(len(_classes_of(run.table("samples"), asked)))}


def _classes_of(samples: Table, ids: Ids) -> set[int]:
    import pyarrow.compute as pc

    found: set[int] = set()
    for rows in samples.batches_of(ids, ["image_id", "class_id"]):
        found.update(pc.unique(rows["class_id"].drop_null()).to_pylist())
    return found


class FirstSelected(SelectStage):
    """The images of the first round, where there are two: half of all."""

    table = "first_selected"

    def count(self, run: Run) -> int:
        """Half of all; of a small pool, half of its images."""
        return (min(super().count(run), len(pool(run))) + 1) // 2


class Selected(SelectStage):
    """The images that the MLLM is asked about, chosen by their vectors."""

    table = "selected"

    def reads(self, run: Run) -> Iterable[str]:
        """Also the images of the first round with their names, where there are two rounds."""
        rounds = ("first_selected", "first_labels") if run.config.label.rounds > 1 else ()
        return (*super().reads(run), *rounds)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also the rules of the second round."""
        from fgvr.selection import second_round

        return super().recipe(run) | ({"second": second_round.RULES} if run.config.label.rounds > 1 else {})

    def decided_by(self, run: Run) -> dict[str, Any]:
        """Also the answers of the first round, whichever of them were asked for again."""
        asked = run.table("first_answers").fingerprint if run.config.label.rounds > 1 else None
        return super().decided_by(run) | {"first_answers": asked}

    def first(self, run: Run) -> FirstRound | None:
        """The images of the first round, with their names."""
        from fgvr.selection.task import FirstRound

        if run.config.label.rounds == 1:
            return None
        rows = run.table("first_selected").read(["image_id", "why"])
        ids = rows["image_id"].to_numpy()
        return FirstRound(ids, label_ids(run.table("first_labels"), ids), rows["why"].to_pylist())


def take_rounds(run: Run, folder: StageFolder, ids: Ids) -> StageSummary:
    """Write the answers about the images `ids` (int64, ascending), which were asked about in two rounds, as one table.

    Its rows have token counts, but its metrics have none: the rounds' own tables have counted them.
    """
    import pyarrow as pa

    from cluster.stage import StageSummary
    from fgvr import schemas, tables
    from fgvr.failures import Failures

    size = folder.rows_per_part(run.config.label.workers.rows_per_part)
    rounds = [run.table(name) for name in ("first_answers", "second_answers")]
    failures, parts = Failures(), 0
    for parts, start in enumerate(range(0, len(ids), size), start=1):
        here = ids[start : start + size]
        given = [tables.conform(answers.find(here), schemas.ANSWERS) for answers in rounds if answers.rows]
        rows = pa.concat_tables(given).sort_by("image_id")
        folder.write_part(parts - 1, rows)
        failures.add(Failures.in_rows(rows))
    return StageSummary.of(len(ids), failures, parts=parts, rows_per_part=size)


def label_ids(labels: Table, ids: Ids) -> Ids:
    """Label ids of the images `ids` (int64 [n], ascending), int64 [n]; `NONE` where there is none."""
    import numpy as np

    from fgvr.arrays import NONE

    rows = labels.find(ids, ["image_id", "label_id"])
    result = np.full(len(ids), NONE, np.int64)
    result[np.searchsorted(ids, rows["image_id"].to_numpy())] = rows["label_id"].fill_null(NONE).to_numpy()
    return result


if __name__ == "__main__":
    stage_main(__doc__, "selected", check=lambda config: stage_of("selected").check(config))
