"""Find in seconds, before Ray or a model is started, what would stop a run after minutes or hours.

Each stage declares what it needs (`Stage.check`, `Stage.splits`, its workers and its model); this module checks all
stages that still have something to compute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fgvr.config import Config, ConfigError
from fgvr.config.base import TrainWorkers
from fgvr.tables import Table
from pipelines.registry import stage_of
from pipelines.run_tables import Look, Run, closure, needs, quietly, unfinished
from pipelines.stage import Stage, model_of, workers_at

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Refuse a whole job that would evaluate on its training images, although each stage alone would be valid."""
    images = config.label.images
    for field, split in (("label.images.split", images.drawn_from), ("makd.split", config.makd.split)):
        asked_for = images.legacy_discovery_split and field == "label.images.split"
        if split == config.evaluate.split and not asked_for:
            raise ConfigError(f"{field} = {split}: that is evaluate.split, on which nothing may be learned")
    if config.mllm.made_up:
        log.warning("mllm.kind = simulated: NO MODEL IS ASKED, every answer and all that follows is made up")


def check_tables(config: Config, tables: Sequence[str]) -> None:
    """Raise a UserError that names the field, if one of these tables or their inputs cannot be computed.

    An API key is required where something is left to ask; once photos are listed, `tell_bill` knows where that is.
    """
    from fgvr.mllm.backends import backend_identity
    from pipelines.engine_checks import check_engines
    from pipelines.places import check_keys, check_stores
    from pipelines.spending import check_budget

    check_stores(config)
    stage_of("samples").check(config)
    look = Look.of(config)
    with quietly():
        look.table("samples")
    names = closure(look, tables)
    stages = [stage_of(name) for name in names]
    for each in _distinct(stages, lambda stage: (type(stage).check, None if stage.checked_once else stage.table)):
        if each.table != "samples":  # it is checked
            each.check(config)
    asked = [stage for stage in stages if stage.model(config) is not None]
    if "samples" not in look.tables:
        check_keys(config, asked)
    for stage in _distinct(asked, lambda stage: stage.model(config)):
        if (model := model_of(stage, config)) is not None:
            backend_identity(model)  # finds the model without fetching its weights
    check_budget(config, stages)
    left = unfinished(look, names)  # what is there may have been computed on another machine
    check_engines(config, [stage for stage in asked if stage.table in left])


def _distinct(stages: Iterable[Stage], key: Callable[[Stage], Any]) -> list[Stage]:
    """The stages without repetition: the first of those with equal keys."""
    found: dict[Any, Stage] = {}
    for stage in stages:
        found.setdefault(key(stage), stage)
    return list(found.values())


def compute(run: Run, tables: Sequence[str]) -> list[Table]:
    """Compute these tables one after the other, each after its inputs.

    Errors in the config and the bill come before the first model is asked.
    """
    from pipelines.estimate import tell_bill
    from pipelines.spending import expect

    run.expect(tables)
    stages = [stage_of(name) for name in run.ahead]
    check_capacities(run.config, run.later())  # a stage that cannot start shows now, not after the hours of others
    if "samples" in run.ahead:
        check_splits(run.config, run.table("samples").extra["splits"], stages)
        if "samples" not in run.there:
            run.expect(tables)  # what photos there are is known now
        recheck(run, "samples")
    if any(stage.model(run.config) is not None for stage in stages):
        tell_bill(run, tables)
    else:
        expect(run.looking(), None)
    begun: set[str] = set()
    run.before = lambda stage: ask_before(run, stage, tables, begun)
    run.after = lambda name: recheck(run, name)
    return [run.table(name) for name in tables]


def ask_before(run: Run, stage: Stage, tables: Sequence[str], begun: set[str]) -> None:
    """Before a training run, compute what uses the loaded engine and does not need this training.

    Args:
        run: the run.
        stage: what comes next; whether a training run or not.
        tables: the tables that this session was asked for.
        begun: the training runs for which this was done; they are added.
    """
    workers = workers_at(run.config, stage.workers(run.config))
    if not isinstance(workers, TrainWorkers) or stage.table in begun:
        return
    begun.add(stage.table)
    run.expect(tables)  # what is finished may have changed which tables ask a model
    if stage.table in run.there:
        return
    for later in run.later():
        if later.model(run.config) is not None and stage.table not in closure(run.looking(), [later.table]):
            run.table(later.table)


def recheck(run: Run, name: str) -> None:
    """Let the stages that need the table `name`, which is finished now, check again whether they can run."""
    look = run.looking()
    for stage in run.later():
        if type(stage).recheck is not Stage.recheck and name in needs(look, stage.table):
            with quietly():
                stage.recheck(look)


def check_capacities(config: Config, stages: Iterable[Stage]) -> None:
    """Raise SessionError where the workers of these stages can never start."""
    from cluster.capacity import check_all

    places = dict.fromkeys(place for stage in stages if (place := stage.workers(config)) is not None)
    check_all([(place, workers) for place in places if (workers := workers_at(config, place)) is not None])


def check_splits(config: Config, splits: Iterable[str], stages: Iterable[Stage]) -> None:
    """Raise a ConfigError for a field that names a missing split; called as soon as the samples are listed.

    `evaluate.split` may be missing, as with a plain folder of photos: the discovery images replace it, with a warning.

    Args:
        config: the config of the run.
        splits: all splits of the samples table.
        stages: the stages to compute.
    """
    there, stages = set(splits), list(stages)
    known = ", ".join(sorted(there))
    named = dict.fromkeys(pair for stage in stages for pair in stage.splits(config))
    wrong = [
        f"{field} = {split}: no image is in this split (there are: {known})"
        for field, split in named
        if split not in there
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    if any(stage.table == "report" for stage in stages) and config.evaluate.split not in there:
        log.warning(
            "evaluate.split = %s: no image is in this split (there are: %s); discovery images will stand in for them",
            config.evaluate.split,
            known,
        )
