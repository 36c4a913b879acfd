"""The sentence model of a classifier with columns of text: loaded once per process, and only where there is a text."""

from __future__ import annotations

from functools import cache

from fgvr.metadata.fitted import FittedMetadata
from fgvr.models.base import Texts
from fgvr.names.merging import NameEncoder


@cache
def sentence_model(name: str) -> NameEncoder:
    """The model of that name; raises SentenceModelError where there is none."""
    from fgvr.metrics.semantic import SentenceBert

    return SentenceBert(name, field="makd.metadata.sentence_model")


def sentences_for(fitted: FittedMetadata, texts: Texts) -> NameEncoder | None:
    """The sentence model, None where no column of text has a value."""
    named = (each.column.sources[0] for each in fitted.columns if each.column.kind == "text")
    used = any(name in texts and texts[name].null_count < len(texts[name]) for name in named)
    return sentence_model(fitted.sentence_model) if used else None
