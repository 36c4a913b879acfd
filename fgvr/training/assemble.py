"""From tables to a student's training set: which images, their classes, and which questions were answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.arrays import Ids
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.schemas import STUDENT_TARGETS, Failure, Reason
from fgvr.simulation import mixed as _mixed
from fgvr.tables import Table, read_part, read_places
from fgvr.training.examples import AspectAnswers, Examples, SampleUris, SoftClasses
from fgvr.training.pool_targets import TOP, TRUSTED
from fgvr.training.targets import ClassTargets, TargetError, TrueClasses, fraction_of, held_out, spread

RANDOM_BLOCK = 2**18
"""How many random numbers are generated at a time."""


@dataclass(frozen=True)
class TrainingSet:
    """The training set of a student.

    Attributes:
        examples: the images to learn from, with their targets.
        targets: class targets of all requested images.
        image_ids: int64, all requested images.
        unlabelled: whether `examples` also contains images without a class target.
    """

    examples: Examples
    targets: ClassTargets
    image_ids: Ids
    unlabelled: bool = False

    def table(self, left_out: dict[int, Failure]) -> pa.Table:
        """Rows of STUDENT_TARGETS: every image that should have been used, failures with their reason.

        If people give the targets, images without a true class were never requested; if a method does, it failed on
        them.
        Those that are used without a class have neither a class nor an error.

        Args:
            left_out: failures of images that could not be read, by position in `examples`.
        """
        examples = self.examples
        positions = np.full(len(examples), -1, dtype=np.int32)
        positions[list(left_out)] = np.arange(len(left_out))
        good = pa.array(positions < 0)
        known = (positions < 0) & (examples.classes != UNKNOWN_CLASS)
        rows = pa.table(
            [
                pa.array(examples.image_ids),
                pc.if_else(pa.array(known), pa.array(examples.classes.astype(np.int32)), None),
                pa.array(examples.held_out),
                pa.array(examples.answers.answered),
                _errors(list(left_out.values()), pc.if_else(good, None, pa.array(positions))),
            ],
            schema=STUDENT_TARGETS,
        )
        without = self.image_ids[self.targets.classes == UNKNOWN_CLASS]
        if self.unlabelled or self.targets.source == "true" or not len(without):
            return rows
        failure = Failure(Reason.NO_INPUT, "the image has no name: an earlier stage failed on it (table pool)")
        failed = {"image_id": without, "error": _errors([failure], pa.array(np.zeros(len(without), dtype=np.int32)))}
        failed |= {name: pa.nulls(len(without), rows.schema.field(name).type) for name in rows.schema.names[1:-1]}
        columns = [failed[name] for name in STUDENT_TARGETS.names]
        return pa.concat_tables([rows, pa.table(columns, schema=STUDENT_TARGETS)]).sort_by("image_id")


def _errors(failures: Sequence[Failure], places: pa.Array) -> pa.Array:
    """The column `error`: for each row the failure at its index, or null."""
    return pa.array([failure.as_row() for failure in failures], STUDENT_TARGETS.field("error").type).take(places)


def split_rows(samples: Table, split: str, columns: list[str]) -> pa.Table:
    """`image_id`, `uri` and other columns of a split's samples; of other rows only the column `split` is read."""
    return pa.concat_tables(_of_split(samples, split, sorted({"image_id", "uri", "split", *columns})))


def class_rows(samples: Table, split: str) -> pa.Table:
    """`image_id`, `class_id` and `class_name` of a split's samples: 16 bytes per image.

    Names are dictionary-encoded, with one dictionary for all images.
    """
    ids, classes, codes = [np.zeros(0, np.int64)], [pa.array([], pa.int32())], [pa.array([], pa.int32())]
    names: dict[str, int] = {}
    for rows in _of_split(samples, split, ["image_id", "class_id", "class_name"]):
        if rows.num_rows:
            ids.append(rows["image_id"].to_numpy())
            classes.append(rows["class_id"].combine_chunks())
            codes.append(_codes(rows["class_name"].combine_chunks().dictionary_encode(), names))
    named = pa.DictionaryArray.from_arrays(pa.concat_arrays(codes), pa.array(list(names), pa.string()))
    return pa.table({"image_id": np.concatenate(ids), "class_id": pa.concat_arrays(classes), "class_name": named})


def _of_split(samples: Table, split: str, columns: list[str]) -> Iterator[pa.Table]:
    """Parts of the samples without the rows of other splits; a single empty part if there are no rows."""
    for number in range(samples.parts):
        places = np.flatnonzero(pc.equal(read_part(samples.uri, number, ["split"])["split"], split).to_numpy())
        if len(places) or number == 0:
            yield read_places(samples.uri, number, places, columns)


def _codes(encoded: pa.DictionaryArray, names: dict[str, int]) -> pa.Array:
    """The names' numbers in `names`, to which new names are added; null if there is no name."""
    numbers = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int32)
    return pa.array(numbers, pa.int32()).take(encoded.indices)


def true_classes(rows: pa.Table) -> TrueClasses:
    """True classes from rows with `class_id` and `class_name`."""
    ids = pc.fill_null(rows["class_id"], UNKNOWN_CLASS).to_numpy().astype(np.int64)
    return TrueClasses(ids, rows["class_name"])


def pool_targets(pool: Table, labels: tuple[str, ...], *, trusted: bool = False) -> ClassTargets:
    """The class targets that the table `pool` gives its images.

    Args:
        pool: rows of schemas.POOL, ascending.
        labels: names of the classes.
        trusted: only names that are trusted are targets (`TRUSTED`).

    Raises:
        TargetError: no image has a name that counts, or that is trusted.
    """
    ids, shares = np.full((pool.rows, TOP), UNKNOWN_CLASS, np.int32), np.zeros((pool.rows, TOP), np.float16)
    weights, width, done = np.zeros(pool.rows, np.float32), 1, 0
    for rows in pool.batches(["label_ids", "probabilities", "weight"]):
        here, some = slice(done, done + rows.num_rows), _filled(rows)
        ids[here][some] = pc.list_flatten(rows["label_ids"]).to_numpy()
        shares[here][some] = pc.list_flatten(rows["probabilities"]).to_numpy()
        weights[here] = pc.fill_null(rows["weight"], 0).to_numpy()
        width, done = max(width, int(some.sum(axis=1).max(initial=0))), done + rows.num_rows
    if trusted:
        ids[~_trusted(pool)] = UNKNOWN_CLASS
        if not (ids[:, 0] != UNKNOWN_CLASS).any():
            raise TargetError(
                "makd.trainer = semi: no image has a name that is trusted: nobody has checked one, and MLLM, "
                "classifier and neighbours agree on none (table pool, column standing); set makd.trainer to plain"
            )
    if not (weights[ids[:, 0] != UNKNOWN_CLASS] > 0).any():
        raise TargetError("no training image has a name that counts: the student has nothing to learn (table pool)")
    soft = SoftClasses(ids[:, :width], shares[:, :width]) if width > 1 else None
    alike = bool((weights[ids[:, 0] != UNKNOWN_CLASS] == 1).all())
    return ClassTargets(ids[:, 0].astype(np.int64), labels, str(pool.extra["by"]), None if alike else weights, soft)


def _trusted(pool: Table) -> npt.NDArray[np.bool_]:
    """Which images of a pool have a name that is trusted, bool [N]."""
    standing = pool.read(["standing"])["standing"]
    found = pc.is_in(standing, pa.array(TRUSTED)).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=bool)


def _filled(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Which of `TOP` places each row's names fill, bool [n, TOP]."""
    counts = pc.fill_null(pc.list_value_length(rows["label_ids"]), 0).to_numpy()
    return np.asarray(np.arange(TOP) < counts[:, None])


def p_yes_of(image_ids: Ids, aspects: pa.Table, questions: int) -> npt.NDArray[np.float32]:
    """p(yes) float32 [N, Q] of images; nan for images without answers or with failed ones.

    Args:
        image_ids: int64 [N], ascending.
        aspects: rows of the aspects table.
        questions: Q.
    """
    ids, p_yes = _answered(aspects, questions)
    return spread(image_ids, ids, p_yes, np.nan)


def answers_of(image_ids: Ids, aspects: Table, questions: int) -> AspectAnswers:
    """The same as `p_yes_of`, but holding rows only for images with answers."""
    rows, values = [np.zeros(0, np.int64)], [np.zeros((0, questions), np.float32)]
    for part in aspects.batches(["image_id", "p_yes", "error"]):
        ids, p_yes = _answered(part, questions)
        places = np.searchsorted(image_ids, ids)
        known = image_ids[np.minimum(places, len(image_ids) - 1)] == ids if len(image_ids) else np.zeros(len(ids), bool)
        rows.append(places[known])
        values.append(p_yes[known])
    return AspectAnswers(len(image_ids), np.concatenate(rows), np.concatenate(values))


def _answered(aspects: pa.Table, questions: int) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Ids [n] and answers [n, Q] of the rows that have answers."""
    good = aspects.filter(pc.and_(pc.is_null(aspects["error"]), pc.is_valid(aspects["p_yes"])))
    flat = pc.list_flatten(good["p_yes"]).to_numpy().astype(np.float32)
    if flat.size != good.num_rows * questions:
        raise ValueError(f"the aspects table does not have {questions} values per row: it belongs to other questions")
    return good["image_id"].to_numpy(), flat.reshape(-1, questions)


@dataclass(frozen=True)
class _ClassMeans:
    """Answers [A, Q] that are an image's own, or else the means of its class; made when rows are requested."""

    own: AspectAnswers
    rows: Ids
    classes: Ids
    means: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """A and Q."""
        return len(self.rows), self.means.shape[1]

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        """The answers of these rows."""
        positions = self.rows[rows]
        answers: npt.NDArray[np.float32] = self.own[positions]
        nothing = np.isnan(answers).all(axis=1)
        answers[nothing] = self.means[self.classes[positions[nothing]]]
        return answers


def class_mean_answers(answers: AspectAnswers, classes: Ids, count: int) -> AspectAnswers:
    """The answers of N images, and for those without any the mean answers about the images of the same class.

    Images without a class, and those of a class about which nothing was answered, stay without.

    Args:
        answers: of N images and Q questions.
        classes: int64 [N]; −1 without a class.
        count: number of classes.
    """
    sums, known = np.zeros((count, answers.shape[1])), np.zeros((count, answers.shape[1]))
    for rows, values in answers.blocks():
        here = classes[rows] != UNKNOWN_CLASS
        np.add.at(sums, classes[rows[here]], np.nan_to_num(values[here]))
        np.add.at(known, classes[rows[here]], ~np.isnan(values[here]))
    means = np.divide(sums, known, out=np.full_like(sums, np.nan), where=known > 0).astype(np.float32)
    some = answers.answered
    named, taught = classes != UNKNOWN_CLASS, np.asarray(known > 0).any(axis=1)
    some[named] |= np.take(taught, classes[named])
    rows = np.flatnonzero(some)
    return AspectAnswers(len(answers), rows, _ClassMeans(answers, rows, classes, means))


@dataclass(frozen=True)
class RandomAnswers:
    """`random_p_yes` of images (int64 [N], ascending), generated when rows are requested."""

    image_ids: Ids
    questions: int
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        """N and Q."""
        return len(self.image_ids), self.questions

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        """The random answers of these images."""
        return random_p_yes(self.image_ids[rows], self.questions, self.seed)

    def answers(self) -> AspectAnswers:
        """The same as AspectAnswers of these images."""
        return AspectAnswers(len(self.image_ids), np.arange(len(self.image_ids)), self)


def random_p_yes(image_ids: Ids, questions: int, seed: int) -> npt.NDArray[np.float32]:
    """sigmoid(N(0, 1)) in place of answers, float32 [N, Q]: targets that say nothing about the image.

    A number depends only on seed, image and question: other images or additional questions do not change it. The
    three are hashed (splitmix64: Steele, Lea and Flood, OOPSLA 2014), and the Box–Muller transform makes a normal
    number from the halves of the hash. (One generator per image would take minutes for millions of images.)
    """
    p_yes = np.empty((len(image_ids), questions), dtype=np.float32)
    of_seed = _mixed(np.array([seed], dtype=np.uint64))
    numbers = np.arange(questions, dtype=np.uint64)
    rows = max(1, RANDOM_BLOCK // max(questions, 1))
    for start in range(0, len(image_ids), rows):
        of_images = _mixed(of_seed + image_ids[start : start + rows].astype(np.uint64))
        words = _mixed(of_images[:, None] + numbers)
        radius = (np.right_shift(words, np.uint64(32)) + 0.5) / 2**32  # in the open interval 0 … 1
        angle = np.bitwise_and(words, np.uint64(2**32 - 1)) / 2**32
        normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
        p_yes[start : start + rows] = 1 / (1 + np.exp(-normal))
    return p_yes


@dataclass(frozen=True)
class HeldOut:
    """How many images are held out for validation, the seed of the draw, and the share of all images that is used."""

    share: float
    seed: int
    fraction: float = 1.0


def assemble(
    rows: pa.Table,
    targets: ClassTargets,
    p_yes: npt.NDArray[np.float32] | AspectAnswers,
    validation: HeldOut,
    identity: str,
    *,
    samples: Table | None = None,
    unlabelled: bool = False,
) -> TrainingSet:
    """The training set of images with a class target, and of those without one if a recipe uses them.

    Args:
        rows: N rows of the samples table, ascending.
        targets: class targets of these rows.
        p_yes: float32 [N, Q], nan if missing; Q = 0 for the base student.
        validation: how many images are held out; the fraction of all images is taken first.
        identity: see `fgvr.training.image_store`.
        samples: table from which URIs are read when they are needed; None: they are in `rows`.
        unlabelled: keep images without a class target; a fraction takes the same share of them as of each class.
    """
    image_ids = rows["image_id"].to_numpy()
    usable = np.ones(len(image_ids), dtype=bool) if unlabelled else targets.classes != UNKNOWN_CLASS
    if validation.fraction < 1:
        usable[usable] = fraction_of(targets.classes[usable], validation.fraction, validation.seed)
    everyone = bool(usable.all())  # avoids a copy
    classes, chosen = (targets.classes, image_ids) if everyone else (targets.classes[usable], image_ids[usable])
    examples = Examples(
        image_ids=chosen,
        uris=rows["uri"].filter(pa.array(usable)).to_pylist() if samples is None else SampleUris(samples, chosen),
        classes=classes,
        p_yes=AspectAnswers.of(p_yes) if everyone else AspectAnswers.of(p_yes).chosen(usable),
        weights=targets.weights if everyone or targets.weights is None else targets.weights[usable],
        soft=targets.soft if everyone or targets.soft is None else targets.soft.chosen(usable),
        held_out=held_out(classes, validation.share, validation.seed),
        identity=identity,
    )
    return TrainingSet(examples, targets, image_ids, unlabelled)
