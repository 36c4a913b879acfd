"""Rates that `pipelines/plan.py --probe` measured, kept in the run folder for later plans and the bill of the run.

A rate holds for the settings under which it was measured: model, prompt, workers, image sizes. It outlives changes of
what only says how many photos there are, which is what plans are compared for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fgvr import storage
from fgvr.config import Config
from fgvr.config.base import Workers
from pipelines.asks import Load
from pipelines.registry import stage_of
from pipelines.stage import model_of, setting, workers_at

FILE = "rates.json"
"""In the run folder: stage → its probed rate."""
SIZES = {"images", "max_images", "splits", "split", "epochs", "max_steps", "milestones", "warmup_epochs"}
POOL = {"min_workers", "max_workers", "rows_per_part"}
"""Fields that say how many photos, passes or workers there are, and not what one of them costs."""


@dataclass(frozen=True)
class Probed:
    """What a probe measured of one stage on one worker.

    Attributes:
        key: digest of the settings that decide the rate (`key_of`).
        photos: number of measured photos.
        seconds: of one worker for one row and pass, without loading the model; None: every reply had been kept.
        load: tokens per row; None: the stage asks no model, or its server does not state them.
        at_least: why the real rate will be slower, in words; "" where it will not.
    """

    key: str
    photos: int
    seconds: float | None
    load: Load | None = None
    at_least: str = ""

    @property
    def words(self) -> str:
        """Where the rate comes from."""
        return f"a probe of {self.photos} photos" + (f" ({self.at_least})" if self.at_least else "")

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read what `write_probed` wrote."""
        load = facts["load"]
        return cls(**{**facts, "load": None if load is None else Load(*load)})


@dataclass(frozen=True)
class ProbedRates:
    """The rates in a run folder, by stage."""

    stages: Mapping[str, Probed]

    def of(self, stage: str, config: Config) -> Probed | None:
        """The rate of a stage, where it was measured under the settings of this config."""
        found = self.stages.get(stage)
        return found if found is not None and found.key == key_of(stage, config) else None


def read_probed(folder: str) -> ProbedRates:
    """The rates in a run folder; none where nothing was probed."""
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, FILE)))
    except FileNotFoundError:
        return ProbedRates({})
    return ProbedRates({stage: Probed.of_json(each) for stage, each in facts.items()})


def write_probed(folder: str, found: Mapping[str, Probed]) -> None:
    """Add rates to those of the run folder; a rate without seconds replaces none of the same settings that has them."""
    rates = dict(read_probed(folder).stages)
    for stage, new in found.items():
        old = rates.get(stage)
        if new.seconds is not None or old is None or old.key != new.key:
            rates[stage] = new
    facts = {
        stage: {**vars(each), "load": None if each.load is None else list(vars(each.load).values())}
        for stage, each in rates.items()
    }
    storage.write_bytes(storage.join(folder, FILE), json.dumps(facts, indent=1).encode())


def key_of(stage: str, config: Config) -> str:
    """Digest of what decides the rate of a stage: its part of the config, its model and its workers' resources."""
    described = stage_of(stage)
    place, model = described.workers(config), model_of(described, config)
    workers = workers_at(config, place)
    part = None if place is None else setting(config, place.partition(".")[0])
    facts: dict[str, Any] = {} if part is None else part.model_dump(mode="json", exclude={*SIZES, "workers"})
    reserved = None if workers is None else workers.model_dump(mode="json", exclude=POOL)
    if isinstance(workers, Workers) and model is None:
        facts["clip"] = config.clip.model_dump(mode="json")
        facts["student"] = [config.makd.backbone, config.makd.image_size]
    asked = None if model is None else model.model_dump(mode="json", exclude={"reply_cache"})
    text = json.dumps([stage, facts, reserved, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
