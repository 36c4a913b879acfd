"""A tree of kinds above the names: species, genus, family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import Part


class Hierarchy(Part):
    """hierarchy: what stands above the names, for metrics by level and for decisions that make better mistakes
    (docs/hierarchy.md).
    """

    source: Literal["none", "file", "wordnet"] = "none"
    """Where the kinds above names come from: a CSV (`path`), or WordNet's nouns. `none`: names have no kinds."""
    path: str | None = None
    """`file`: CSV with columns `name,parent`, or with a column per level, finest first (`species,genus,family`).
    `wordnet`: folder with index.noun and data.noun; null: /usr/share/wordnet, where Debian's package wordnet-base puts
    them."""
    levels: tuple[str, ...] | None = None
    """`file`: its columns, finest first, where it has others, too; null: `name,parent`, or else all columns."""
    decide: Literal["most_probable", "least_cost", "any_level"] = "most_probable"
    """What models answer: the most probable name, the name with the least expected cost in the tree, or whatever has
    the least, which may be a kind above the names (a genus) where the name is unsure. Predictions then have the column
    `level`. It counts wherever `infer.costs` would."""
    cost: Literal["distance", "height"] = "distance"
    """What a mistake costs: edges between both names, or the height of their lowest common ancestor (for `least_cost`
    only: a kind above the names would never be worth it)."""
    specific_above: float = Field(default=0.5, gt=0, lt=1)
    """`distance`: an answer goes one level down where the probability below it is above this. 0.5 counts edges; raise
    it for fewer, surer names."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part."""
        if self.levels is not None and self.source != "file":
            yield "levels", f"source = {self.source} has no columns; set source to file, or levels to null"
        if self.path is not None and self.source == "none":
            yield "path", "source = none reads nothing; set source to file or wordnet"

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.source == "file" and self.path is None:
            raise ValueError("path: required for source = file: a CSV with columns `name,parent` or one per level")
        if self.levels is not None and len(set(self.levels)) < max(2, len(self.levels)):
            raise ValueError("levels: at least two different columns, finest first")
        if self.source == "none" and self.decide != "most_probable":
            raise ValueError(f"decide = {self.decide}: needs kinds above the names; set source to file or wordnet")
        if self.decide == "any_level" and self.cost == "height":
            raise ValueError(
                "cost = height: with decide = any_level no kind is ever worth it, since it costs its height even where "
                "it is right; use distance"
            )
        return self
