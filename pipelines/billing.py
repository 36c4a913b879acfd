"""What each stage costs and which stages each method pays for, derived from what the stages declare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.run import Method
from pipelines.registry import STAGES, added_tables, stage_of
from pipelines.run_tables import Run, reached, so_far
from pipelines.stage import Stage, model_of, workers_at

if TYPE_CHECKING:
    from fgvr.report.costs import Billing, Machine, Paid


def billing(config: Config) -> Billing:
    """How the stages of the run are billed; raises PricesError for a price file that cannot be read."""
    from fgvr.report.costs import Billing
    from fgvr.report.prices import read_prices

    names = [*STAGES, *added_tables(config)]
    prices, stages = config.evaluate.prices, [stage_of(name) for name in names]
    models = {stage.table: model_of(stage, config) for stage in stages}
    paid = {table: model.title for table, model in models.items() if model is not None and model.billed_by_token}
    machines = {stage.table: machine for stage in stages if (machine := _machine(stage, config)) is not None}
    return Billing(None if prices is None else read_prices(prices), paid, machines)


def assumed_billing(config: Config) -> Billing:
    """The same with the prices that this version ships where the config names none: for estimates and comparisons."""
    from fgvr.report.prices import SHIPPED, read_prices

    money = billing(config)
    return money if money.prices is not None else replace(money, prices=read_prices(SHIPPED))


def _machine(stage: Stage, config: Config) -> Machine | None:
    """What the largest number of its workers reserves; None for a stage of the driver."""
    from fgvr.report.costs import Machine

    match workers_at(config, stage.workers(config)):
        case TrainWorkers() as each:
            return Machine(each.num_workers * each.num_cpus, float(each.num_workers * each.use_gpu))
        case Workers() as each:
            count = 1 if stage.one_call else each.max_workers
            return Machine(count * each.num_cpus, count * each.num_gpus)
        case _:
            return None


def paid_by(run: Run, method: Method, table: str) -> Paid:
    """The stages that a method pays for.

    Args:
        run: the run that holds the stages.
        method: name of the method.
        table: the table with the method's names.
    """
    from fgvr.report.costs import Paid

    if method == "mllm":  # its only cost is naming: every further image needs an answer of its own
        models = {name: stage_of(name).model(run.config) or "" for name in _phased(run, [table])}
        asked = [name for name, model in models.items() if model == "mllm" or model.startswith("label.sources.")]
        if table == "labels":
            return Paid(inference=(*dict.fromkeys((*asked, "answers", table)),))
        return Paid(inference=("eval_mllm_answers", table))
    own = so_far(stage_of(table).pays, run)
    by_the_image = [name for name in own if stage_of(name).phase == "infer"]
    others = [name for name in _phased(run, own) if name not in by_the_image]
    training = tuple(name for name in others if stage_of(name).phase == "train")
    preparation = tuple(name for name in others if name not in training)
    return Paid(preparation, training, (*by_the_image, table))


def _phased(run: Run, names: Iterable[str]) -> tuple[str, ...]:
    """These tables, and all others that a method pays for together with them."""
    found = reached(names, lambda name: so_far(stage_of(name).pays, run))
    return tuple(name for name in found if stage_of(name).phase is not None)
