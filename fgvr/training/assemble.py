"""From tables to a student's training set: which images, which class each has, and which questions were answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.clip.classifier import ClassFeatures
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.schemas import STUDENT_TARGETS, Failure, Reason
from fgvr.splitmix import mixed as _mixed
from fgvr.tables import Table, rows_among, vectors
from fgvr.training.examples import Examples
from fgvr.training.fraction import fraction_of
from fgvr.training.targets import ClassTargets, Ids, NearLabels, TrueClasses, held_out, spread

RANDOM_BLOCK = 2**18
"""Random numbers that are made at a time."""


@dataclass(frozen=True)
class TrainingSet:
    """What a student is trained on.

    Attributes:
        examples: images that have a class target, and what is learned of each.
        targets: of all images that were asked for; those without a class are not in `examples`.
        image_ids: int64, all images that were asked for.
    """

    examples: Examples
    targets: ClassTargets
    image_ids: Ids

    def table(self, left_out: dict[int, Failure]) -> pa.Table:
        """Rows of STUDENT_TARGETS: every image that should have been learned from, failures with their reason.

        Images without a true class were never asked for where people give the targets; where NeaR does, it failed on
        them.

        Args:
            left_out: failures of images that could not be read, by position in `examples`.
        """
        examples = self.examples
        errors: list[dict[str, str] | None] = [None] * len(examples)
        for position, failure in left_out.items():
            errors[position] = failure.as_row()
        good = pa.array([error is None for error in errors])
        rows = pa.table(
            [
                pa.array(examples.image_ids),
                pc.if_else(good, pa.array(examples.classes.astype(np.int32)), None),
                pa.array(examples.held_out),
                pa.array(
                    ~np.isnan(examples.p_yes).all(axis=1) if examples.p_yes.shape[1] else np.zeros(len(examples), bool)
                ),
                pa.array(errors, STUDENT_TARGETS.field("error").type),
            ],
            schema=STUDENT_TARGETS,
        )
        without = self.image_ids[self.targets.classes == UNKNOWN_CLASS]
        if self.targets.source == "true" or not len(without):
            return rows
        failure = Failure(Reason.NO_INPUT, "NeaR has no label for this image: an earlier stage failed on it")
        failed = [{"image_id": int(image_id), "error": failure.as_row()} for image_id in without]
        return pa.concat_tables([rows, pa.Table.from_pylist(failed, STUDENT_TARGETS)]).sort_by("image_id")


def split_rows(samples: Table, split: str, columns: list[str]) -> pa.Table:
    """`image_id`, `uri` and other columns of the samples of a split."""
    rows = samples.read(sorted({"image_id", "uri", "split", *columns}))
    return rows.filter(pc.equal(rows["split"], split))


def true_classes(rows: pa.Table) -> TrueClasses:
    """Of rows with `class_id` and `class_name`."""
    ids = pc.fill_null(rows["class_id"], UNKNOWN_CLASS).to_numpy().astype(np.int64)
    return TrueClasses(ids, rows["class_name"].to_pylist())


def near_labels(image_ids: Ids, disambiguated: pa.Table, embeddings: Table, classes: ClassFeatures) -> NearLabels:
    """What NeaR says about images: the labels it settled on, and its predictions from cached embeddings.

    Args:
        image_ids: int64 [N], ascending.
        disambiguated: rows of DISAMBIGUATED.
        embeddings: the embeddings table of the CLIP that the classes belong to.
        classes: the text side of the NeaR model.
    """
    predicted = np.full(len(image_ids), UNKNOWN_CLASS, dtype=np.int64)
    for part in embeddings.batches(["image_id", "vector", "error"]):
        rows = rows_among(part.filter(pc.is_null(part["error"])), image_ids)
        if rows.num_rows:
            best = classes.scores(vectors(rows["vector"])).argmax(axis=1)
            predicted[np.searchsorted(image_ids, rows["image_id"].to_numpy())] = best
    settled = disambiguated.filter(pc.is_valid(disambiguated["label_id"]))
    beside = spread(image_ids, settled["image_id"].to_numpy(), settled["label_id"].to_numpy().astype(np.int64), -1)
    return NearLabels(beside, predicted, classes.labels)


def p_yes_of(image_ids: Ids, aspects: pa.Table, questions: int) -> npt.NDArray[np.float32]:
    """p(yes) float32 [N, Q] of images; nan for those that were not asked about or failed.

    Args:
        image_ids: int64 [N], ascending.
        aspects: rows of the aspects table.
        questions: Q.
    """
    good = aspects.filter(pc.and_(pc.is_null(aspects["error"]), pc.is_valid(aspects["p_yes"])))
    flat = pc.list_flatten(good["p_yes"]).to_numpy().astype(np.float32)
    if flat.size != good.num_rows * questions:
        raise ValueError(f"the aspects table has other than {questions} values in a row: it fits other questions")
    return spread(image_ids, good["image_id"].to_numpy(), flat.reshape(-1, questions), np.nan)


def random_p_yes(image_ids: Ids, questions: int, seed: int) -> npt.NDArray[np.float32]:
    """sigmoid(N(0, 1)) in place of answers, float32 [N, Q]: targets that say nothing about the image.

    A number follows from seed, image and question alone: other images beside, or more questions, do not change it.
    The three are hashed (splitmix64: Steele, Lea and Flood, OOPSLA 2014), and Box and Muller's formula makes a normal
    number of the hash's halves. (A generator for each image would take minutes for millions.)
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
    """How many images validate, by which seed they are drawn, and which share of all images is used at all."""

    share: float
    seed: int
    fraction: float = 1.0


def assemble(
    rows: pa.Table, targets: ClassTargets, p_yes: npt.NDArray[np.float32], validation: HeldOut, identity: str
) -> TrainingSet:
    """The training set of images with a class target.

    Args:
        rows: N rows of the samples table, ascending.
        targets: of these rows.
        p_yes: float32 [N, Q], nan where there is none; Q = 0 for the base student.
        validation: images held out; its fraction of the images is taken first.
        identity: see `fgvr.training.image_store`.
    """
    image_ids = rows["image_id"].to_numpy()
    usable = targets.classes != UNKNOWN_CLASS
    if validation.fraction < 1:
        usable[usable] = fraction_of(targets.classes[usable], validation.fraction, validation.seed)
    classes = targets.classes[usable]
    examples = Examples(
        image_ids=image_ids[usable],
        uris=rows["uri"].filter(pa.array(usable)).to_pylist(),
        classes=classes,
        p_yes=p_yes[usable],
        held_out=held_out(classes, validation.share, validation.seed),
        identity=identity,
    )
    return TrainingSet(examples, targets, image_ids)
