"""Votes: the names that several sources give the same images, in one label space, each with its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fgvr import schemas
from fgvr.names.answer_items import Form
from fgvr.names.label_space import NamedAnswers, weigh_row


def vote_rows(sources: Sequence[tuple[str, pa.Table, Form]], named: NamedAnswers) -> pa.Table:
    """Rows of the schema `VOTES`, by image, then in the order of the sources, then the heaviest name first.

    Args:
        sources: name of each source, its rows of the answers schema about the same images, and the form of its
            answers. Images without a row, failed rows and answers without a name have no vote.
        named: what the items of all answers mean.
    """
    label_ids = {label: label_id for label_id, label in enumerate(named.space.labels)}
    images: list[int] = []
    names: list[str] = []
    ranks: list[int] = []
    labels: list[int] = []
    scores: list[float] = []
    order: list[int] = []
    for number, (source, answers, form) in enumerate(sources):
        for row in answers.to_pylist():
            for rank, (name, weight) in enumerate(weigh_row(row, named, form).weights.items(), start=1):
                images.append(row["image_id"])
                names.append(source)
                ranks.append(rank)
                labels.append(label_ids[name])
                scores.append(float(weight))
                order.append(number)
    rows = pa.table([images, names, ranks, labels, scores], schema=schemas.VOTES)
    return rows.take(np.lexsort((np.array(ranks, np.int64), np.array(order, np.int64), np.array(images, np.int64))))
