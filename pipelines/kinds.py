"""The tree of kinds that `hierarchy` configures: how models decide in it, and what the report says by its levels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fgvr import storage
from fgvr.config import Config, ConfigError
from pipelines.run_tables import Run, per_run

if TYPE_CHECKING:
    from fgvr.hierarchy.decisions import TreeRule
    from fgvr.hierarchy.kinds import Source
    from fgvr.hierarchy.levels import HierarchyScores

log = logging.getLogger(__name__)


ASKED = "kind_answers"
"""The table of what a language model says about kinds."""


def kinds_of(run: Run) -> Source | None:
    """What stands above names; None where nothing is configured. Raises KindsError for a file that means nothing."""
    return _asked_kinds(run) if run.config.hierarchy.source == "mllm" else _read_kinds(run.config)


def check_kinds(config: Config) -> None:
    """Check that there is something above names, as far as the config tells; raises KindsError or ConfigError."""
    from fgvr.mllm.backends import backend_identity

    asked = config.hierarchy
    if asked.source != "mllm":
        _read_kinds(config)
        return
    field, model = ("mllm", config.mllm) if asked.llm is None else ("hierarchy.llm", asked.llm)
    if model.made_up:
        raise ConfigError(
            f"hierarchy.source = mllm: {field}.kind = {model.kind} writes no text, so it knows no kinds; set "
            "hierarchy.llm to a language model, or hierarchy.source to file or wordnet"
        )
    backend_identity(model)


def tree_tables(config: Config) -> tuple[str, ...]:
    """Tables from which the tree is made in which models decide; mostly none."""
    asked = config.hierarchy
    return (ASKED,) if asked.source == "mllm" and asked.decide != "most_probable" else ()


def tree_rule(run: Run) -> TreeRule | None:
    """How models decide in the tree; None without one. Raises KindsError."""
    from fgvr.hierarchy.decisions import TreeRule

    source, asked = kinds_of(run), run.config.hierarchy
    if source is None:
        return None
    return TreeRule(source, asked.decide == "any_level", asked.cost, asked.specific_above)


def stated_kinds(run: Run) -> dict[str, str]:
    """What stands above names, as fingerprints hold it, by content; nothing without it."""
    kinds = kinds_of(run)
    return {} if kinds is None else {"kinds": kinds.digest()}


def _read_kinds(config: Config) -> Source | None:
    asked = config.hierarchy
    if asked.source == "file":
        from fgvr.hierarchy.kinds import read_kinds

        return read_kinds(storage.absolute(asked.path or ""), asked.levels)
    if asked.source == "wordnet":
        from fgvr.hierarchy.wordnet import FOLDER, read_wordnet

        return read_wordnet(FOLDER if asked.path is None else storage.absolute(asked.path))
    return None


@per_run
def _asked_kinds(run: Run) -> Source:
    from fgvr.mllm.kind_worker import kinds_of_rows

    return kinds_of_rows(run.table(ASKED).read(["class_id", "name", "kinds"]))


def by_level(
    run: Run, names: Mapping[str, Sequence[str]], true: Sequence[str | None]
) -> dict[str, HierarchyScores] | None:
    """Each method's names in the tree of kinds; None without a tree, or where it has no true name."""
    kinds, config = kinds_of(run), run.config.evaluate
    if kinds is None or not any(true):
        return None
    from fgvr.hierarchy.levels import hierarchy_scores

    found = {}
    for method, said in names.items():
        scores = hierarchy_scores(said, true, kinds, resamples=config.bootstrap, seed=config.seed)
        if scores is None:
            log.warning("evaluate: the hierarchy has none of the true names, so that there are no metrics by level")
            return None
        found[method] = scores
    left_out = max(each.left_out for each in found.values())
    if left_out:
        log.warning(
            "evaluate: %s images have a true name that the hierarchy lacks: no metric by level", f"{left_out:,}"
        )
    return found
