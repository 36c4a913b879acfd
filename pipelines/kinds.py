"""The tree of kinds that `hierarchy` configures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgvr import storage
from fgvr.config import Config

if TYPE_CHECKING:
    from fgvr.hierarchy.decisions import TreeRule
    from fgvr.hierarchy.kinds import Source


def kinds_at(config: Config) -> Source | None:
    """What stands above names; None where nothing is configured. Raises KindsError for a file that means nothing."""
    asked = config.hierarchy
    if asked.source == "file":
        from fgvr.hierarchy.kinds import read_kinds

        return read_kinds(storage.absolute(asked.path or ""), asked.levels)
    if asked.source == "wordnet":
        from fgvr.hierarchy.wordnet import FOLDER, read_wordnet

        return read_wordnet(FOLDER if asked.path is None else storage.absolute(asked.path))
    return None


def tree_rule(config: Config) -> TreeRule | None:
    """How models decide in the tree; None without one. Raises KindsError."""
    from fgvr.hierarchy.decisions import TreeRule

    source, asked = kinds_at(config), config.hierarchy
    if source is None:
        return None
    return TreeRule(source, asked.decide == "any_level", asked.cost, asked.specific_above)
