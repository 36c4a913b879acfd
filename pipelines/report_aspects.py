"""What the report shows about aspects, gathered from the tables of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.stage import RunContext
from fgvr import storage
from fgvr.analysis.agreement import compare_aspects
from fgvr.analysis.class_sums import ClassSums, halves
from fgvr.analysis.leave_one_out import leave_one_out
from fgvr.analysis.projection import project
from fgvr.config.data import ImageLimits
from fgvr.report.aspect_pictures import AspectCard, AspectPictures, answer_pairs, choose_cards, class_dots
from fgvr.report.aspects import AspectFacts, Names, Overhead, aspect_facts
from fgvr.report.cards import file_name
from fgvr.report.results import EVALUATION
from fgvr.report.thumbnails import thumbnail
from fgvr.students.architecture import build_student
from fgvr.students.folder import load_student
from fgvr.tables import Table
from fgvr.training.checkpoint import HISTORY_FILE
from pipelines import infer
from pipelines.flow import Flow

Ids = npt.NDArray[np.int64]
Answers = npt.NDArray[np.float32]

STAGE = f"{EVALUATION}aspects"
JUDGED = 5_000
"""Images whose class is told from the answers alone."""
COMPARED = 1_000
"""Of these, images whose answers are compared with the student's, and that are mapped."""
CARDS = 6
CARD_QUESTIONS = 8


@dataclass(frozen=True)
class AspectImages:
    """Training images with a class target and answers, and a sample of them that the student was asked about.

    Attributes:
        ids: int64 [N], ascending.
        classes: int64 [N], class targets.
        folds: int64 [N], the half that each belongs to.
        judged: rows among these, ascending, of the larger sample.
        compared: rows among `judged`, ascending, that the student was asked about.
        held_out: of the compared ones, those kept out of the student's training, bool.
        student: its predictions for them.
    """

    ids: Ids
    classes: Ids
    folds: Ids
    judged: Ids
    compared: Ids
    held_out: npt.NDArray[np.bool_]
    student: Table


def aspect_images(context: RunContext, flow: Flow) -> AspectImages | None:
    """Draw the sample and ask the student about it; None for a student that learned no answers of the MLLM."""
    # A student of other targets (random ones, none) has no aspects table among its inputs: none is asked for here.
    if not flow.makd.extra["questions"] or not any(table.name == "aspects" for table in context.tables):
        return None
    rows = flow.makd.read(["image_id", "label_id", "held_out", "aspects"])
    rows = rows.filter(pc.and_(rows["aspects"], pc.is_valid(rows["label_id"])))
    if not rows.num_rows:
        return None
    held = rows["held_out"].to_numpy()
    rng = np.random.default_rng(context.config.evaluate.seed)
    order = rng.permutation(len(held))
    # Held-out images first, up to half of the compared ones: of them the student knows nothing by heart.
    first = order[held[order]][: COMPARED // 2]
    order = np.concatenate([first, order[~np.isin(order, first)]])
    judged = np.sort(order[:JUDGED])
    compared = np.sort(order[:COMPARED])
    ids = rows["image_id"].to_numpy().astype(np.int64)
    classes = rows["label_id"].to_numpy().astype(np.int64)
    return AspectImages(
        ids=ids,
        classes=classes,
        folds=halves(classes),
        judged=judged,
        compared=np.searchsorted(judged, compared),
        held_out=held[compared],
        student=infer.classify(context, STAGE, flow.samples, ids[compared], trained=flow.makd),
    )


def aspect_report(flow: Flow, images: AspectImages, *, with_base: bool) -> tuple[AspectFacts, AspectPictures]:
    """Numbers and drawings.

    Args:
        flow: of the run.
        images: the sample.
        with_base: whether the student without aspects was trained, too.
    """
    config = flow.context.config
    model = json.loads(storage.read_bytes(flow.makd.path("model", "model.json")))
    names = Names(model["questions"], model["labels"], str(flow.makd.extra["class_targets"]))
    sums, judged = _answers(flow.aspects, images, len(names.labels), len(names.questions))
    mllm = judged[images.compared]
    compared_ids = images.ids[images.judged[images.compared]]
    student = _student(images.student, compared_ids, len(names.questions))
    alone = leave_one_out(sums, images.folds[images.judged], images.classes[images.judged], judged)
    unseen = images.held_out if images.held_out.any() else np.ones(len(mllm), dtype=bool)
    agreement = compare_aspects(mllm[unseen], student[unseen])
    overhead = _overhead(flow, with_base=with_base)
    facts = aspect_facts(names, sums, alone, agreement, overhead, held_out=bool(images.held_out.any()))
    pictures = AspectPictures()
    answered = ~np.isnan(student).all(axis=1)  # the student's image may have become unreadable
    classes = images.classes[images.judged[images.compared]]
    maps = [project(side[answered], config.evaluate.seed) for side in (mllm, student)]
    if maps[0] is not None and maps[1] is not None:
        dots = class_dots([names.labels[c] for c in classes[answered]], maps[0], maps[1])
        pictures = AspectPictures(int(answered.sum()), int((answered & images.held_out).sum()), dots)
    shown = np.flatnonzero(unseen & answered)
    shown = shown[choose_cards(classes[shown], CARDS if config.evaluate.report_images else 0, config.evaluate.seed)]
    cards = _cards(flow.samples, compared_ids[shown], config.ingest.limits)
    lines = facts.questions[:CARD_QUESTIONS]
    filled = [
        replace(card, class_name=names.labels[classes[row]], pairs=answer_pairs(lines, mllm[row], student[row]))
        for card, row in zip(cards, shown, strict=True)
    ]
    return facts, replace(pictures, cards=filled)


def _answers(aspects: Table, images: AspectImages, classes: int, questions: int) -> tuple[ClassSums, Answers]:
    """Sums over all images, and the answers [J, Q] of the judged ones: the table is read once, part by part."""
    sums = ClassSums(classes, questions)
    judged = np.full((len(images.judged), questions), np.nan, dtype=np.float32)
    for part in aspects.batches(["image_id", "p_yes", "error"]):
        ids, p_yes = _p_yes(part, questions)
        rows = np.searchsorted(images.ids, ids)
        known = images.ids[np.minimum(rows, len(images.ids) - 1)] == ids
        rows, p_yes = rows[known], p_yes[known]
        sums.add(images.folds[rows], images.classes[rows], p_yes)
        places = np.searchsorted(images.judged, rows)
        drawn = images.judged[np.minimum(places, len(images.judged) - 1)] == rows
        judged[places[drawn]] = p_yes[drawn]
    return sums, judged


def _student(predictions: Table, ids: Ids, questions: int) -> Answers:
    """The student's outputs [n, Q] for ascending ids; nan where it failed."""
    found, p_yes = _p_yes(predictions.read(["image_id", "p_yes", "error"]), questions)
    outputs = np.full((len(ids), questions), np.nan, dtype=np.float32)
    outputs[np.searchsorted(ids, found)] = p_yes
    return outputs


def _p_yes(rows: pa.Table, questions: int) -> tuple[Ids, Answers]:
    """Ids [n] and the first Q answers [n, Q] of the rows that have some."""
    good = rows.filter(pc.and_(pc.is_null(rows["error"]), pc.is_valid(rows["p_yes"])))
    flat = pc.list_flatten(good["p_yes"]).to_numpy().astype(np.float32)
    asked = flat.reshape(good.num_rows, -1) if good.num_rows else flat.reshape(0, questions)
    return good["image_id"].to_numpy().astype(np.int64), asked[:, :questions]


def _cards(samples: Table, ids: Ids, limits: ImageLimits) -> list[AspectCard]:
    """Cards without answers, in the order of `ids`."""
    rows = samples.take(ids, ["uri"])["uri"].to_pylist()
    return [AspectCard(file_name(uri), *thumbnail(uri, limits), class_name="", pairs=[]) for uri in rows]


def _overhead(flow: Flow, *, with_base: bool) -> Overhead:
    spec, student = load_student(storage.fetch_folder(flow.makd.path("model")))
    plain = build_student(replace(spec, questions=()))
    answers = (flow.aspects.rows - flow.aspects.failed) * flow.questions.rows
    return Overhead(
        parameters=sum(weights.numel() for weights in student.parameters()),
        parameters_without=sum(weights.numel() for weights in plain.parameters()),
        images_per_second=_rate(flow.makd),
        images_per_second_without=_rate(flow.base) if with_base else None,
        seconds_per_answer=flow.aspects.seconds / answers if answers else None,
    )


def _rate(trained: Table) -> float | None:
    """Images a second of the fastest epoch, the one least disturbed by others; None where none is known."""
    epochs = json.loads(storage.read_bytes(trained.path(HISTORY_FILE)))
    rates = [float(epoch["images_per_second"]) for epoch in epochs if "images_per_second" in epoch]
    return max(rates, default=None)
