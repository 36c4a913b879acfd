"""pool: what each photo teaches the student: names with probabilities, and how much they count. In: vectors. Out: pool.

    python pipelines/pool.py --makd.target near --makd.target_temperature 2 --makd.target_weights confidence

One row per training image of a student whose classes are names that a method gives (`makd.target`): NeaR, the trained
head, or prototypes, from stored vectors; no image is read. A name that NeaR settled for an image that the MLLM named
stays, and so does one that a person has checked (`label.checked`). `weight` says how much the image counts
(`makd.target_weights`), `kind` by whom it was named, and `standing`, for semi-supervised students (`makd.trainer`), why
its name is trusted or not. See docs/students.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr.arrays import NONE
from fgvr.config import Config
from pipelines.beliefs import second_look, second_look_tables, settled_names
from pipelines.checked import CHECKED, checked_names
from pipelines.command import stage_main
from pipelines.run_tables import Run
from pipelines.stage import Phase, Stage
from pipelines.student_images import classes_of, consulted, learned_rows, named_classes, namer

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Floats, Ids, Labels
    from fgvr.training.pool_targets import Named

log = logging.getLogger(__name__)

ROWS_PER_PART = 2**17


class Pool(Stage):
    """What each photo of the pool teaches the students: names, probabilities, weight, and by whom it was named."""

    table = "pool"
    phase: ClassVar[Phase | None] = "train"

    def consults(self, run: Run) -> Iterable[str]:
        """What decides which images students learn from."""
        return consulted(run)

    def reads(self, run: Run) -> Iterable[str]:
        """The vectors, the model that names them, the labels, and what the weights are made of."""
        yield from ("samples", "labels", "embeddings", namer(run.config))
        if _asks_others(run.config):
            yield from second_look_tables(run.config)
        if run.config.makd.target_weights == "agreement":
            yield from _others(run.config)
        if run.config.makd.target_weights == "issues" or run.config.makd.trainer == "semi":
            yield "issues"

    def recipe(self, run: Run) -> dict[str, Any]:
        """The images, and how names become targets."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.training.pool_targets import RULES

        makd = run.config.makd
        looked = {"checked_weight": makd.checked_weight} if run.table("labels").extra.get(CHECKED) else {}
        return {
            "rules": RULES,
            "ids": digest_of_ids(learned_rows(run)["image_id"].to_numpy()),
            "temperature": makd.target_temperature,
            "weights": makd.target_weights,
            **({"standings": True} if makd.trainer == "semi" else {}),
            **looked,
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Name the images block by block, as many as their vectors and scores leave room for."""
        from cluster import budget
        from cluster.stage import StageSummary
        from fgvr.failures import Failures

        size = folder.rows_per_part(ROWS_PER_PART)
        ids, failures, says = learned_rows(run)["image_id"].to_numpy(), Failures(), _Says(run)
        sums = _Sums(len(says.classes.labels))
        for number, start in enumerate(range(0, max(len(ids), 1), size)):
            budget.check()
            rows = says.rows(ids[start : start + size])
            folder.write_part(number, rows)
            failures.add(Failures.in_rows(rows))
            sums.add(rows)
        summary = StageSummary.of(len(ids), failures, parts=max(1, -(-len(ids) // size)), rows_per_part=size)
        summary.metrics = sums.metrics()
        summary.remarks = sums.remarks()
        summary.extra = {"by": namer(run.config)}
        log.info("pool: %s", sums.in_words())
        return summary


class _Says:
    """What is said about images, by every method that counts, in the label space of the one that is learned."""

    def __init__(self, run: Run) -> None:
        self.run, self.makd = run, run.config.makd
        self.embeddings = run.table("embeddings")
        self.method = namer(run.config)
        self.classes = named_classes(run)
        agree = self.makd.target_weights == "agreement"
        self.others = [classes_of(run, table) for table in _others(run.config)] if agree else []
        self._numbers = [_numbers(other.labels, self.classes.labels) for other in self.others]
        labels = run.table("labels")
        self._own_ids, own = settled_names(labels, second_look(run) if _asks_others(run.config) else None)
        space = _label_space(labels)
        numbers = _numbers(space, self.classes.labels)
        self._own = numbers[own.first]
        self._checked = numbers[checked_names(labels, self._own_ids, own.first)]
        self._agree = agree

    def rows(self, ids: Ids) -> pa.Table:
        """Rows of schemas.POOL of the images `ids`, int64 [n], ascending."""
        import numpy as np
        import pyarrow as pa

        from fgvr import schemas
        from fgvr.clip.vectors import read_vectors
        from fgvr.models.from_features import no_vector
        from fgvr.training.pool_targets import weights, with_certain
        from fgvr.training.targets import spread

        vectors, embedded = read_vectors(self.embeddings, ids)
        settled, checked = self._settled(ids), spread(ids, self._own_ids, self._checked, NONE)
        named, confidence, others = self._named(ids, vectors, settled)
        for said in (named.label_ids, *others):
            said[~embedded] = NONE
        by_vectors = named.first.copy()
        named = with_certain(with_certain(named, settled), checked)
        if self._agree:
            others = [*others, spread(ids, self._own_ids, self._own, NONE)]
        weight = weights(
            named,
            self.makd.target_weights,
            confidence=np.where(embedded, confidence, 1.0).astype(np.float32),
            others=others,
            suspicion=self._suspicion(ids, named),
            checked=checked != NONE,
            checked_weight=self.makd.checked_weight,
        )
        kinds = np.where(checked != NONE, "checked", np.where(settled != NONE, "settled", self.method))
        standings = self._standings(ids, named.first, by_vectors, checked)
        good = named.first != NONE
        failed = no_vector().as_row()
        filled = named.label_ids != NONE
        columns = {
            "image_id": ids,
            "label_ids": _lists(named.label_ids, filled, good, pa.int32()),
            "probabilities": _lists(named.probabilities, filled, good, pa.float32()),
            "weight": pa.array(weight, pa.float32(), mask=~good),
            "kind": pa.array(kinds, pa.string(), mask=~good),
            "standing": pa.nulls(len(ids), pa.string())
            if standings is None
            else pa.array(standings, pa.string(), mask=~good),
            "error": pa.array([None if fine else failed for fine in good], schemas.ERROR.type),
        }
        return pa.table(columns, schema=schemas.POOL)

    def _named(self, ids: Ids, vectors: Any, settled: Labels) -> tuple[Named, Floats, list[Labels]]:
        """Names by the vectors, the probability of the settled or else the best one, and what other methods say."""
        import numpy as np

        from fgvr.models.from_features import IMAGES_AT_ONCE, SCORES_AT_ONCE, scores_of, texts_of
        from fgvr.training.pool_targets import Named, best_names

        at_once = min(IMAGES_AT_ONCE, max(1, SCORES_AT_ONCE // max(1, len(self.classes.labels))))
        blocks, sure = [], []
        said: list[list[Labels]] = [[] for _ in self.others]
        for start in range(0, max(len(vectors), 1), at_once):
            here = slice(start, start + at_once)
            block, samples = vectors[here], self.run.table("samples")
            whole = slice(0, len(block))
            scores = scores_of(self.classes, block, texts_of(self.classes, samples, ids[here]), whole)
            blocks.append(best_names(scores, self.makd.target_temperature))
            kept = settled[start : start + at_once]
            sure.append(scores[np.arange(len(block)), np.where(kept != NONE, kept, scores.argmax(axis=1))])
            for names, other, numbers in zip(said, self.others, self._numbers, strict=True):
                said_by = scores_of(other, block, texts_of(other, samples, ids[here]), whole)
                names.append(numbers[said_by.argmax(axis=1)])
        named = Named(
            np.concatenate([each.label_ids for each in blocks]), np.concatenate([each.probabilities for each in blocks])
        )
        return named, np.concatenate(sure), [np.concatenate(names) for names in said]

    def _settled(self, ids: Ids) -> Labels:
        """The names that NeaR has settled for images that the MLLM named; none where another method is learned."""
        import numpy as np
        import pyarrow.compute as pc

        from fgvr.training.targets import spread

        if self.method != "near":
            return np.full(len(ids), NONE, np.int32)
        rows = self.run.table("near").find(ids, ["image_id", "label_id"])
        rows = rows.filter(pc.is_valid(rows["label_id"]))
        return spread(ids, rows["image_id"].to_numpy(), rows["label_id"].to_numpy().astype(np.int32), NONE)

    def _standings(self, ids: Ids, learned: Labels, names: Labels, checked: Labels) -> Any:
        """Why the name of each image is trusted, or not; None where that plays no part."""
        import pyarrow.compute as pc

        from fgvr.training.pool_targets import standings
        from fgvr.training.targets import spread

        if self.makd.trainer != "semi":
            return None
        rows = self.run.table("issues").find(ids, ["image_id", "neighbours_name"])
        doubted = pc.is_valid(rows["neighbours_name"]).to_numpy(zero_copy_only=False)
        return standings(
            learned,
            names,
            spread(ids, self._own_ids, self._own, NONE),
            doubted=spread(ids, rows["image_id"].to_numpy(), doubted, False),
            checked=checked != NONE,
        )

    def _suspicion(self, ids: Ids, named: Named) -> Floats | None:
        """How suspicious the MLLM's label is, where it is the name that is learned; nan elsewhere."""
        import numpy as np

        from fgvr.training.targets import spread

        if self.makd.target_weights != "issues":
            return None
        rows = self.run.table("issues").find(ids, ["image_id", "score"])
        score = rows["score"].cast("float32").fill_null(np.nan).to_numpy(zero_copy_only=False)
        found = spread(ids, rows["image_id"].to_numpy(), score, np.nan)
        return np.where(spread(ids, self._own_ids, self._own, NONE) == named.first, found, np.nan).astype(np.float32)


class _Sums:
    """Counts of a table, part by part."""

    def __init__(self, names: int) -> None:
        """`names`: size of the label space."""
        self.weight, self.rows, self.silent = 0.0, 0, 0
        self.taught = [False] * names
        self.kinds: dict[str, int] = {}
        self.standings: dict[str, int] = {}

    def add(self, rows: pa.Table) -> None:
        """Count a part."""
        import pyarrow.compute as pc

        weight = rows["weight"].fill_null(0)
        self.weight += float(pc.sum(weight).as_py() or 0)
        self.silent += int(pc.sum(pc.equal(weight, 0)).as_py() or 0)
        self.rows += rows.num_rows
        for label_id in pc.unique(pc.list_element(rows["label_ids"].drop_null(), 0)).to_pylist():
            self.taught[label_id] = True
        for column, counts in (("kind", self.kinds), ("standing", self.standings)):
            for row in rows[column].drop_null().value_counts().to_pylist():
                counts[row["values"]] = counts.get(row["values"], 0) + row["counts"]

    def metrics(self) -> dict[str, float]:
        """Images by who named them, their mean weight, and the names that no image has."""
        mean = self.weight / self.rows if self.rows else 0.0
        unseen = float(self.taught.count(False))
        return {"mean_weight": mean, "without_weight": float(self.silent), "names_without_images": unseen} | {
            kind: float(count) for kind, count in sorted((self.kinds | self._prefixed()).items())
        }

    def _prefixed(self) -> dict[str, int]:
        return {f"standing_{standing}": count for standing, count in self.standings.items()}

    def in_words(self) -> str:
        """Who named how many images, and how much these count."""
        named = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        mean = self.weight / self.rows if self.rows else 0.0
        standing = ", ".join(f"{count:,} {each}" for each, count in sorted(self.standings.items()))
        trusted = f"; names are {standing}" if standing else ""
        return f"of {self.rows:,} images named: {named or 'none'}; they count {mean:.2f} on average{trusted}"

    def remarks(self) -> tuple[str, ...]:
        """What a reader must know of a pool that teaches next to nothing."""
        if self.rows and self.weight / self.rows < FAINT:
            return (
                f"the images of the pool count {self.weight / self.rows:.2f} on average: hardly one has a name that is "
                "certain; the student learns from little (makd.target_weights none counts all alike)",
            )
        return ()


FAINT = 0.05
"""Mean weight below which a remark is made."""


def _asks_others(config: Config) -> bool:
    """Whether it counts what the MLLM says of an image, beside the method that names all."""
    return config.makd.target_weights == "agreement" or config.makd.trainer == "semi"


def _others(config: Config) -> Iterator[str]:
    """Tables with further models that name images by their vectors: prototypes, and those that the report compares."""
    compared = ("label_prototypes", *(name for name in ("near", "heads") if name in config.evaluate.methods))
    yield from (table for table in compared if table != namer(config))


def _label_space(labels: Any) -> tuple[str, ...]:
    from fgvr.names.label_space import read_label_space

    return tuple(read_label_space(labels).labels)


def _numbers(space: Sequence[str], labels: Sequence[str]) -> Labels:
    """For each label id of a space that of another, by name; `NONE` where it has no such name, and last for `NONE`."""
    import numpy as np

    numbers = {name: number for number, name in enumerate(labels)}
    return np.array([*(numbers.get(name, NONE) for name in space), NONE], np.int32)


def _lists(values: Any, filled: Any, good: Any, kind: Any) -> Any:
    """A list column of the filled values [n, k] of each row; null where a row is not good."""
    import numpy as np
    import pyarrow as pa

    filled = filled & good[:, None]
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[filled], kind), mask=pa.array(~good))


if __name__ == "__main__":
    stage_main(__doc__, "pool")
