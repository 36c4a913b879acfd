"""From all answers to the label space: the set of distinct names, each with an id that all later stages use."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fgvr import storage
from fgvr.mllm.alias_pairs import NameUse
from fgvr.mllm.aliases import Alias, AliasTable
from fgvr.mllm.answer_items import Item, item_name, item_text
from fgvr.mllm.latin import scientific_name
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table

LABEL_SPACE_FILE = "label_space.json"

Merge = Callable[[Sequence[NameUse]], Mapping[str, str]]
"""Says which name is an alias of which (a name left out stays itself), as `fgvr.mllm.merging.merge_aliases` does."""


@dataclass(frozen=True)
class LabelSpace:
    """Distinct names in alphabetical order: a name's place is its label id.

    Attributes:
        labels: canonical names.
        counts: images that each name was given to (an image with several answers counts for each spelling).
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def to_json(self) -> bytes:
        """As `label_space.json`."""
        return json.dumps({"labels": self.labels, "counts": self.counts}, ensure_ascii=False, indent=0).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LabelSpace:
        """Read what `to_json` wrote."""
        facts = json.loads(data)
        return cls(tuple(facts["labels"]), tuple(facts["counts"]))


def read_label_space(labels: Table) -> LabelSpace:
    """The names beside a labels table."""
    return LabelSpace.from_json(storage.read_bytes(labels.path(LABEL_SPACE_FILE)))


@dataclass(frozen=True)
class NamedAnswers:
    """What every distinct raw answer means.

    Attributes:
        space: the label space.
        meanings: raw answer (an `Item`) → canonical name, or why it has none.
        aliases: the alias table, for people.
    """

    space: LabelSpace
    meanings: Mapping[Item, str | Failure]
    aliases: tuple[Alias, ...]


def build_label_space(
    answers: Mapping[Any, int], aliases: AliasTable | None = None, merge: Merge | None = None
) -> NamedAnswers:
    """Clean all answers and unite those that mean the same name.

    Spellings that differ in case, accents or punctuation only are one name; the most frequent spelling is the
    canonical one, among equally frequent ones the first in alphabetical order. A label that a person chose overrules
    both, keeps the spelling that the person gave it, and is merged into no other; labels that a person told apart stay
    apart, be it by case alone.

    Args:
        answers: raw answer (an `Item`: a str, CutText or FieldText) → number of images that gave it.
        aliases: labels chosen by a person.
        merge: unites names of different spelling, after the clean-up.
    """
    chosen = aliases or AliasTable()
    read = {raw: _read(raw, chosen) for raw in answers}
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for raw, (_, name) in read.items():
        if isinstance(name, str):
            spellings[chosen.name_key(name)][name] += answers[raw]
    canonical = _canonical(spellings, chosen)
    if merge is not None:
        merged = merge(_uses(canonical, spellings, read, answers, chosen))
        fixed = chosen.chosen
        canonical = {key: name if name in fixed else merged.get(name, name) for key, name in canonical.items()}
    meanings = {raw: canonical[chosen.name_key(n)] if isinstance(n, str) else n for raw, (_, n) in read.items()}
    counts: Counter[str] = Counter()
    table: Counter[tuple[str, str]] = Counter()
    for raw, (spelling, _) in read.items():
        meaning = meanings[raw]
        if isinstance(meaning, str):
            counts[meaning] += answers[raw]
        if spelling is not None:
            table[spelling, meaning if isinstance(meaning, str) else ""] += answers[raw]
    labels = tuple(sorted(counts))
    rows = tuple(Alias(answer, label, count) for (answer, label), count in sorted(table.items()))
    return NamedAnswers(LabelSpace(labels, tuple(counts[name] for name in labels)), meanings, rows)


def _read(item: Item, chosen: AliasTable) -> tuple[str | None, str | Failure]:
    """The spelling under which the alias table lists an answer (None: not at all), and the name it means."""
    raw = item_text(item)
    cleaned = item_name(item)
    spelling = cleaned if isinstance(cleaned, str) else None
    label = chosen.label(raw)
    if label is not None:
        # Under its cleaned spelling the table would contradict itself where another answer cleans to the same.
        spelling = spelling if spelling is not None and chosen.label(spelling) == label else raw
    elif spelling is not None:
        label = chosen.label(spelling)
    if label is None:
        return spelling, cleaned
    return spelling, label or Failure(Reason.REFUSED, "dropped by label.aliases")


def _uses(
    canonical: Mapping[str, str],
    spellings: Mapping[str, Counter[str]],
    read: Mapping[Item, tuple[str | None, str | Failure]],
    answers: Mapping[Any, int],
    chosen: AliasTable,
) -> list[NameUse]:
    """The names with their counts and the scientific names that most of their answers give."""
    stated: dict[str, Counter[str]] = defaultdict(Counter)
    for raw, (spelling, name) in read.items():
        latin = scientific_name(item_text(raw), spelling) if isinstance(name, str) and spelling is not None else ""
        if isinstance(name, str) and latin:
            stated[chosen.name_key(name)][latin] += answers[raw]
    return [
        NameUse(
            name, spellings[key].total(), min(stated[key], key=lambda latin: (-stated[key][latin], latin), default="")
        )
        for key, name in canonical.items()
    ]


def _canonical(spellings: Mapping[str, Counter[str]], chosen: AliasTable) -> dict[str, str]:
    """Key → the spelling that stands for all of it."""
    by_person = {chosen.name_key(label): label for label in sorted(chosen.chosen)}
    return {
        key: by_person.get(key) or min(counts, key=lambda name: (-counts[name], name))
        for key, counts in spellings.items()
    }
