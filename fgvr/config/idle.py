"""Fields that have no effect because of another field, so that whoever sets one is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from fgvr.config.run import Config
from fgvr.config.semi import Semi
from fgvr.config.tree import flat


def _written(config: Config) -> str:
    """Why nothing is asked of the language model that writes questions; "" where it is."""
    if config.questions.file is not None:
        return "the questions come from questions.file"
    return _is_given("questions.llm", config.questions.llm)


def _is_given(field: str, value: object) -> str:
    return f"{field} = null" if value is None else ""


def _shown(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"


def _decides(config: Config) -> str:
    return "hierarchy.decide = most_probable" if config.hierarchy.decide == "most_probable" else ""


IDLE: Final[dict[str, Callable[[Config], str]]] = {
    "label.images.max_images": lambda c: _is("label.images.per_class", c.label.images.per_class, None, "null"),
    "label.images.split": lambda c: (
        "label.images.legacy_discovery_split = True" if c.label.images.legacy_discovery_split else ""
    ),
    "label.images.pool": lambda c: "" if c.label.images.chosen else "label.images.select = random draws from the split",
    "label.prompt": lambda c: "label.listed_prompt is asked (label.listed)" if c.label.listed > 1 else "",
    "label.listed_prompt": lambda c: "label.prompt is asked (label.listed = 1)" if c.label.listed == 1 else "",
    "label.merge_model": lambda c: (
        ""
        if c.label.merges_by_meaning
        else f"label.merge_similarity = {_shown(c.label.merge_similarity)} compares no meanings"
    ),
    "candidates.weights": lambda c: (
        "" if c.candidates.method in {"neighbours", "mllm"} else f"candidates.method = {c.candidates.method}"
    ),
    "candidates.seed": lambda c: (
        "" if c.candidates.method == "random" else f"candidates.method = {c.candidates.method} draws nothing"
    ),
    "neighbours.recall": lambda c: (
        "neighbours.method = exact misses no neighbour" if c.neighbours.method == "exact" else ""
    ),
    "heads.hidden": lambda c: "" if c.heads.network == "mlp" else f"heads.network = {c.heads.network}",
    "heads.gce_q": lambda c: "" if c.heads.loss == "gce" else f"heads.loss = {c.heads.loss}",
    "heads.graph_images": lambda c: "heads.propagation = never" if c.heads.propagation == "never" else "",
    "questions.generate": _written,
    "questions.duplicate_similarity": _written,
    "questions.duplicate_model": lambda c: (
        ""
        if c.questions.compares_meaning
        else _written(c)
        or f"questions.duplicate_similarity = {_shown(c.questions.duplicate_similarity)} compares no meanings"
    ),
    "near.gce_q": lambda c: "" if c.near.loss == "gce" else f"near.loss = {c.near.loss}",
    "near.lws_beta": lambda c: "" if c.near.loss == "lws" else f"near.loss = {c.near.loss}",
    "near.refine_after": lambda c: _of_loss(c, "refine_after"),
    "near.pop_threshold": lambda c: _of_loss(c, "pop_threshold"),
    "near.pop_growth": lambda c: _of_loss(c, "pop_growth"),
    "near.records_momentum": lambda c: _of_loss(c, "records_momentum"),
    "near.context_length": lambda c: _is("near.context_init", c.near.context_init, None, "null"),
    "makd.pool": lambda c: f"makd.images = {c.makd.images}" if c.makd.images in {"asked", "all"} else "",
    "makd.momentum": lambda c: "" if c.makd.optimizer == "sgd" else f"makd.optimizer = {c.makd.optimizer}",
    "makd.randaugment_magnitude": lambda c: "" if c.makd.operations else "makd.randaugment = 0",
    **dict.fromkeys(
        [f"makd.semi.{field}" for field in Semi.model_fields],
        lambda c: "" if c.makd.trainer == "semi" else f"makd.trainer = {c.makd.trainer}",
    ),
    **dict.fromkeys(
        [f"signatures.{field}" for field in ("file", "prompt", "rotations", "min_label_mass")],
        lambda c: "" if c.makd.signature_weight else "makd.signature_weight = 0",
    ),
    "makd.refine_after": lambda c: _is("makd.class_loss", c.makd.class_loss, "mixture", "mixture"),
    "makd.milestones": lambda c: _is("makd.schedule", c.makd.schedule, "milestones", "milestones"),
    "detect.milestones": lambda c: _is("detect.schedule", c.detect.schedule, "milestones", "milestones"),
    "baselines.cased.column": lambda c: (
        "a .txt file has no columns (baselines.cased.captions)"
        if (c.baselines.cased.captions or "").lower().endswith(".txt")
        else ""
    ),
    **dict.fromkeys(
        [f"hierarchy.{field}" for field in ("prompt", "rounds", "max_tokens")],
        lambda c: "" if c.hierarchy.source == "mllm" else f"hierarchy.source = {c.hierarchy.source} asks no model",
    ),
    "hierarchy.cost": _decides,
    "hierarchy.specific_above": lambda c: (
        _decides(c) or ("" if c.hierarchy.cost == "distance" else f"hierarchy.cost = {c.hierarchy.cost}")
    ),
    "infer.cost_groups": lambda c: _is_given("infer.costs", c.infer.costs),
}
"""Why a field has no effect, by its name; "" where it has one."""


def without_effect(config: Config, flags: Collection[str], written: Mapping[str, Any]) -> list[str]:
    """A sentence for each of the given fields that changes nothing in this config.

    Args:
        config: as it was resolved.
        flags: dotted names of the fields that flags give.
        written: values by dotted name in a file that a person wrote; those at their default say nothing.
    """
    defaults = flat(Config().model_dump(mode="json"))
    others = {field for field, value in written.items() if field not in flags and value != defaults.get(field)}
    whys = {field: IDLE[field](config) for field in sorted({*flags, *others} & set(IDLE))}
    return [f"{'--' if field in flags else ''}{field} has no effect: {why}" for field, why in whys.items() if why]


def _of_loss(config: Config, field: str) -> str:
    return "" if config.near.loss in config.near.newer[field] else f"near.loss = {config.near.loss}"


def _is(field: str, value: object, needed: object, instead: str) -> str:
    return "" if value == needed else f"{field} = {value} counts; set it to {instead} where {instead} is meant"
