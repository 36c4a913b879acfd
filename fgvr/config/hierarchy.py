"""A tree of kinds above the names: species, genus, family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import Part, Workers
from fgvr.config.models import Mllm
from fgvr.config.texts import AskedPrompt

KIND_PROMPT = (
    "Things are sorted into kinds, and kinds into more general ones: a species into its genus or family, a product into"
    " its class of products, a model of a car into its make. Which kind stands directly above the following one? Reply"
    " with its usual name in the singular, and nothing else. If there is none, reply with none. Kind: {name}"
)
"""The name comes last, so that all names share the rest as a prefix."""


class Hierarchy(Part):
    """hierarchy: what stands above the names, for metrics by level and for decisions that make better mistakes
    (docs/hierarchy.md).
    """

    source: Literal["none", "file", "wordnet", "mllm"] = "none"
    """Where the kinds above names come from: a CSV (`path`), WordNet's nouns, or a language model that is asked about
    every name (table `kind_answers`). `none`: names have no kinds."""
    path: str | None = None
    """`file`: CSV with columns `name,parent`, or with a column per level, finest first (`species,genus,family`).
    `wordnet`: folder with index.noun and data.noun; null: /usr/share/wordnet, where Debian's package wordnet-base puts
    them."""
    levels: tuple[str, ...] | None = None
    """`file`: its columns, finest first, where it has others, too; null: `name,parent`, or else all columns."""
    llm: Mllm | None = None
    """`mllm`: language model that is asked; null: `mllm`, which then gets text alone."""
    prompt: AskedPrompt = KIND_PROMPT
    """`mllm`: what is asked; {name} is filled in with the name, and then with the kind above it. Say in it what kinds
    are wanted (families of birds, departments of a shop), where you know."""
    rounds: int = Field(default=2, ge=1, le=10)
    """`mllm`: most kinds that are asked for above a name, each as the kind of the last one. One request each; names
    that share a kind mostly share its request."""
    max_tokens: int = Field(default=32, ge=1)
    """`mllm`: longest reply, in tokens. Models that think before they answer need more."""
    workers: Workers = Workers(rows_per_part=256)
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
        if self.path is not None and self.source in {"none", "mllm"}:
            yield "path", f"source = {self.source} reads nothing; set source to file or wordnet"

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.source == "file" and self.path is None:
            raise ValueError("path: required for source = file: a CSV with columns `name,parent` or one per level")
        if self.levels is not None and len(set(self.levels)) < max(2, len(self.levels)):
            raise ValueError("levels: at least two different columns, finest first")
        if self.source == "none" and self.decide != "most_probable":
            raise ValueError(
                f"decide = {self.decide}: needs kinds above the names; set source to file, wordnet or mllm"
            )
        if self.decide == "any_level" and self.cost == "height":
            raise ValueError(
                "cost = height: with decide = any_level no kind is ever worth it, since it costs its height even where "
                "it is right; use distance"
            )
        return self
