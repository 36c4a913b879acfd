"""Fields that have no effect because of another field, so that whoever sets one as a flag is told."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from fgvr.config.run import Config

IDLE: Final[dict[str, Callable[[Config], str]]] = {
    "label.images.max_images": lambda c: _is("label.images.per_class", c.label.images.per_class, None, "null"),
    "label.images.split": lambda c: (
        "label.images.legacy_discovery_split = True" if c.label.images.legacy_discovery_split else ""
    ),
    "label.images.pool": lambda c: "" if c.label.images.chosen else "label.images.select = random draws from the split",
    "label.prompt": lambda c: "label.listed_prompt is asked (label.listed)" if c.label.listed > 1 else "",
    "label.listed_prompt": lambda c: "label.prompt is asked (label.listed = 1)" if c.label.listed == 1 else "",
    "near.gce_q": lambda c: "" if c.near.loss == "gce" else f"near.loss = {c.near.loss}",
    "near.lws_beta": lambda c: "" if c.near.loss == "lws" else f"near.loss = {c.near.loss}",
    "near.refine_after": lambda c: _of_loss(c, "refine_after"),
    "near.pop_threshold": lambda c: _of_loss(c, "pop_threshold"),
    "near.pop_growth": lambda c: _of_loss(c, "pop_growth"),
    "near.records_momentum": lambda c: _of_loss(c, "records_momentum"),
    "near.context_length": lambda c: _is("near.context_init", c.near.context_init, None, "null"),
    "makd.refine_after": lambda c: _is("makd.class_loss", c.makd.class_loss, "mixture", "mixture"),
    "makd.milestones": lambda c: _is("makd.schedule", c.makd.schedule, "milestones", "milestones"),
    "detect.milestones": lambda c: _is("detect.schedule", c.detect.schedule, "milestones", "milestones"),
    "baselines.cased.column": lambda c: (
        "a .txt file has no columns (baselines.cased.captions)"
        if (c.baselines.cased.captions or "").lower().endswith(".txt")
        else ""
    ),
}
"""Why a field has no effect, by its name; "" where it has one."""


def without_effect(config: Config, given: Collection[str]) -> list[str]:
    """A sentence for each of the given fields (dotted names) that changes nothing in this config."""
    whys = {field: IDLE[field](config) for field in sorted(given) if field in IDLE}
    return [f"--{field} has no effect: {why}" for field, why in whys.items() if why]


def _of_loss(config: Config, field: str) -> str:
    return "" if config.near.loss in config.near.newer[field] else f"near.loss = {config.near.loss}"


def _is(field: str, value: object, needed: object, instead: str) -> str:
    return "" if value == needed else f"{field} = {value} counts; set it to {instead} where {instead} is meant"
