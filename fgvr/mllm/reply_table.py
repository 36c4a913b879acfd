"""Names in a reply that is a table: of Markdown, of HTML (its cells come as Markdown's), or comma-separated."""

from __future__ import annotations

import re

from fgvr.mllm.spelling import spelling_key

_NAMES = re.compile(
    r"^(?:(?:fine grained|class|common|english|product|predicted|best|final|top|bird|dog|car|plant|flower|possible)\s)*"
    r"(?:label|name|class|answer|prediction|guess|product|species|breed|model|candidate|category|object|item)s?$"
)
_BESIDE = re.compile(
    r"^(?:#|no|rank|confidence(?: \w+)?|probability|score|likelihood|reason(?:ing)?|notes?|description|explanation|"
    r"scientific name|latin name|family|value|field|attribute|property|key|details?)$"
)
_RULE = re.compile(r"^[\s|:+=-]*-[\s|:+=-]*$")


def table_names(text: str) -> list[str] | None:
    """The cells of the column whose heading says that it holds names, or of the row that does.

    Returns:
        The names in their order; None where the text is no table, or none of names.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for mark in ("|", ",", "\t"):
        rows = [_cells(line, mark) for line in lines if mark in line.strip() and not _RULE.match(line)]
        if not rows or (mark != "|" and len(rows) != len(lines)):
            continue
        heading = [spelling_key(cell) for cell in rows[0]]
        column = next((place for place, cell in enumerate(heading) if _NAMES.match(cell)), None)
        others = [cell for place, cell in enumerate(heading) if place != column and cell]
        if column is not None and len(rows) > 1 and all(map(_BESIDE.match, others)):
            return [row[column] for row in rows[1:] if column < len(row) and re.search(r"\w", row[column])]
        if mark == "|" and all(len(row) == 2 for row in rows):
            named = [row[1] for row in rows if _NAMES.match(spelling_key(row[0])) and re.search(r"\w", row[1])]
            return named or None
    return None


def _cells(line: str, mark: str) -> list[str]:
    line = line.strip()
    line = line.removeprefix(mark).removesuffix(mark) if mark == "|" else line
    return [cell.strip(' *_`"') for cell in line.split(mark)]
