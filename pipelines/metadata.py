"""Metadata of photos for students and heads: checked before anything starts, fitted, and looked at for leaks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fgvr.config import Config, ConfigError
from fgvr.config.metadata import Metadata

if TYPE_CHECKING:
    from fgvr.arrays import Floats, Ids
    from fgvr.evaluation.leaks import Power
    from fgvr.metadata.fitted import FittedMetadata
    from fgvr.tables import Table

log = logging.getLogger(__name__)

MOST_FITTED: Final = 200_000
"""Photos on which scalers and vocabularies are fitted, drawn at random."""
MOST_JUDGED: Final = 20_000
"""Photos by which columns are judged: encoding the texts of more would take long."""


@dataclass(frozen=True)
class Prepared:
    """The metadata of a classifier, fitted.

    Attributes:
        fitted: the columns.
        remarks: what a reader of the results must know.
        powers: what each column alone says of the class; empty where nobody looked.
    """

    fitted: FittedMetadata
    remarks: tuple[str, ...]
    powers: tuple[Power, ...]

    @property
    def extra(self) -> dict[str, Any]:
        """For the table's metadata."""
        return {
            "metadata_columns": list(self.fitted.sources),
            "metadata_alone": [power.as_json() for power in self.powers],
        }


def check_metadata(config: Config, settings: Metadata, field: str) -> None:
    """Check the columns against the source, and that there is a sentence model where texts need one.

    Args:
        config: the run's.
        settings: the columns.
        field: the part's place, for messages.

    Raises:
        MetadataError: the source keeps no such column.
        SentenceModelError: there is no such sentence model.
    """
    from fgvr.sources.metadata import check_columns

    check_columns(config.ingest.source, settings.sources, f"{field}.columns")
    metadata_recipe(settings, field)


def metadata_recipe(settings: Metadata, field: str) -> dict[str, Any]:
    """What decides features beside the config: the sentence model's content, where texts need it."""
    if not any(column.kind == "text" for column in settings.parsed):
        return {}
    from fgvr.metrics.semantic import look_up

    return {"sentences": look_up(settings.sentence_model, f"{field}.sentence_model").identity()}


def prepare(
    samples: Table, ids: Ids, classes: Ids, training: Ids, settings: Metadata, *, field: str, seed: int
) -> Prepared:
    """Fit the columns on training photos, and see what each alone says of their classes.

    Args:
        samples: the samples table.
        ids: int64 [N], ascending.
        classes: int64 [N], their classes; −1 without one.
        training: which of them are learned from, positions, ascending.
        settings: the columns.
        field: the part's place, for messages.
        seed: of the photos that are drawn.

    Raises:
        ConfigError: a column is suspicious, and `leaks` is `stop`.
    """
    from fgvr.evaluation.leaks import powers
    from fgvr.metadata.fitted import fit
    from fgvr.metadata.stored import metadata
    from fgvr.models.sentences import sentence_model

    if len(training) > MOST_FITTED:
        training = np.sort(np.random.default_rng(seed).choice(training, MOST_FITTED, replace=False))
    table = metadata(samples, ids[training], settings.sources)
    texts = {name: table[name] for name in settings.sources}
    has_texts = any(column.kind == "text" for column in settings.parsed)
    sentences = sentence_model(settings.sentence_model) if has_texts else None
    fitted, facts = fit(texts, settings, sentences)
    remarks = [remark for fact in facts if (remark := fact.remark()) is not None]
    found: tuple[Power, ...] = ()
    if settings.leaks != "ignore":
        rows = np.arange(len(training))
        if len(rows) > MOST_JUDGED:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_JUDGED, replace=False))
        some = {name: column.take(rows) for name, column in texts.items()}
        found = powers(fitted, some, fitted.encode(some, sentences), classes[training[rows]], seed=seed)
        leaking = [power.remark() for power in found if power.suspicious]
        if leaking and settings.leaks == "stop":
            raise ConfigError(
                "; ".join(leaking) + f". Leave it out of {field}.columns, or set {field}.leaks to warn if it is meant"
            )
        remarks += leaking
        for power in found:
            log.info(
                "%s: %s alone says the class of %.1f of 100 held-out photos (most frequent class: %.1f)",
                *(field, power.column, 100 * power.accuracy, 100 * power.majority),
            )
    for remark in remarks:
        log.warning("%s: %s", field, remark)
    return Prepared(fitted, tuple(remarks), found)


def feature_blocks(samples: Table, ids: Ids, fitted: FittedMetadata) -> Iterator[Floats]:
    """Features of photos, float32 [n, dim], part by part in the order of the ids."""
    from fgvr.metadata.stored import metadata_batches
    from fgvr.models.sentences import sentences_for

    for rows in metadata_batches(samples, ids, fitted.sources):
        texts = {name: rows[name] for name in fitted.sources}
        yield fitted.encode(texts, sentences_for(fitted, texts))
