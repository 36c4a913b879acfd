"""The alias table: which answers mean which label. It is written for people, edited by them, and read again."""

from __future__ import annotations

import csv
import io
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fgvr import storage
from fgvr.errors import UserError
from fgvr.names.spelling import spelling_key
from fgvr.text_files import EditedCsvError, read_edited_csv

log = logging.getLogger(__name__)


class AliasError(UserError, ValueError):
    """An alias file that cannot be used; the message names the line."""


@dataclass(frozen=True)
class Alias:
    """One line: an answer after cleaning, the label it maps to ("": none), and how many images gave it."""

    answer: str
    label: str
    count: int


@dataclass(frozen=True)
class AliasTable:
    """Labels that a person chose for answers (raw or cleaned), exactly as written.

    Attributes:
        labels: label by spelling key of the answer.
        exact: label by the answer itself, where answers with one key were given different labels: for these, case,
            accents and punctuation matter.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    exact: Mapping[str, str] = field(default_factory=dict)

    def label(self, text: str) -> str | None:
        """The chosen label of an answer; "" if the answer is to be dropped, None if nothing was chosen."""
        exact = self.exact.get(_written(text))
        return exact if exact is not None else self.labels.get(spelling_key(text))

    @cached_property
    def chosen(self) -> frozenset[str]:
        """All labels that a person chose for some answer."""
        return frozenset({*self.labels.values(), *self.exact.values()} - {""})

    def name_key(self, name: str) -> str:
        """The key that spellings of one name share, unless the person chose several labels that share this key."""
        return f"={name}" if name in self.told_apart else spelling_key(name)  # no key begins with =

    @cached_property
    def told_apart(self) -> frozenset[str]:
        """Chosen labels that differ from another one only in case, accents or punctuation."""
        keys = {label: spelling_key(label) for label in self.chosen}
        often = Counter(keys.values())
        return frozenset(label for label, key in keys.items() if often[key] > 1)


def read_aliases(uri: str) -> AliasTable:
    """Read a CSV with the columns `answer` and `label`; other columns are ignored.

    An empty label drops the answer. Chains (a → b, b → c) are followed to their end. A line applies to all spellings of
    its answer, unless another line gives one of them another label: then each line applies to its own spelling only.

    Raises:
        AliasError: the file does not exist or cannot be parsed, an answer has two labels, or labels form a cycle.
    """
    try:
        table = _table(_chosen_labels(uri))
    except FileNotFoundError:
        raise AliasError(f"label.aliases: there is no file {uri}") from None
    except EditedCsvError as error:
        raise AliasError(f"label.aliases: {error}") from None
    table = AliasTable(
        {key: _end_of_chain(label, table, uri) for key, label in table.labels.items()},
        {answer: _end_of_chain(label, table, uri) for answer, label in table.exact.items()},
    )
    if table.told_apart:
        log.warning(
            "label.aliases: %s: separate labels that differ only in case, accents or punctuation: %s",
            uri,
            ", ".join(map(repr, sorted(table.told_apart))),
        )
    return table


def write_aliases(aliases: Iterable[Alias]) -> bytes:
    """The table as CSV: most frequent labels first, answers with the same label together."""
    rows = list(aliases)
    totals: dict[str, int] = {}
    for alias in rows:
        totals[alias.label] = totals.get(alias.label, 0) + alias.count
    rows.sort(key=lambda alias: (-totals[alias.label], alias.label, -alias.count, alias.answer))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("answer", "label", "count"))
    writer.writerows((alias.answer, alias.label, alias.count) for alias in rows)
    return text.getvalue().encode()


def _written(text: str) -> str:
    """A text normalised as typed by a person: NFC, without blanks and byte-order marks around it."""
    return unicodedata.normalize("NFC", text).strip(" \t\r\n\xa0\ufeff")


def _chosen_labels(uri: str) -> dict[str, str]:
    """Answer → label, as in the lines of the file."""
    lines: dict[str, tuple[int, str]] = {}
    for row in read_edited_csv(storage.read_bytes(uri), uri, ("answer", "label")):
        answer, label = _written(row.fields["answer"]), _written(row.fields["label"])
        place = f"{uri}, line {row.line}"
        if "\n" in label or "\r" in label:
            raise EditedCsvError(f"{place}: the label has a line break; is a quote not closed? {label[:60]!r}")
        if not answer and label:
            raise EditedCsvError(f"{place}: {label!r} is the label of no answer")
        before, chosen = lines.setdefault(answer, (row.line, label))
        if chosen != label:
            raise EditedCsvError(f"{place}: {answer!r} stands for {label!r}, on line {before} for {chosen!r}")
    return {answer: label for answer, (_, label) in lines.items() if answer}


def _table(lines: Mapping[str, str]) -> AliasTable:
    """Labels by key where all answers with that key have one label, and by exact answer elsewhere."""
    by_key: dict[str, dict[str, str]] = defaultdict(dict)
    for answer, label in lines.items():
        by_key[spelling_key(answer)][answer] = label
    told_apart = {key for key, same in by_key.items() if not key or len(set(same.values())) > 1}
    return AliasTable(
        {key: next(iter(same.values())) for key, same in by_key.items() if key not in told_apart},
        {answer: label for key in told_apart for answer, label in by_key[key].items()},
    )


def _end_of_chain(label: str, table: AliasTable, uri: str) -> str:
    seen = [label]
    while True:
        following = table.label(label) if label else None
        if following is None or following == label:
            return label
        if following in seen:
            raise AliasError(f"label.aliases: {uri}: {label!r} stands for other labels in a circle")
        seen.append(following)
        label = following
