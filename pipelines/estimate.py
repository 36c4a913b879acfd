"""What a run will ask, compute and cost: logged before the first model is asked; `--plan` prints it.

Prices come from `evaluate.prices`, or else from the price file that this version ships; the arithmetic is that of the
report's "Time and money".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fgvr.config import Config
from fgvr.config.base import TrainWorkers
from fgvr.config.data import DRAWN
from fgvr.images.read import ImageError, read_image
from fgvr.mllm.backend import Size
from fgvr.mllm.request_tokens import PHOTO, image_tokens
from fgvr.redact import masked
from fgvr.report.costs import Billing, Machine, usd_of
from fgvr.report.estimates import FILE, Estimate, estimates_json, read_estimates
from fgvr.report.results import StageResult
from fgvr.sources.source import read_source
from fgvr.storage_errors import StorageRefused
from fgvr.tables import Table
from pipelines import room
from pipelines.asks import Ask, Load, Task, asks, naming_all, tasks
from pipelines.bill import ASSUMED, Bill, Line, WorkLine
from pipelines.billing import assumed_billing
from pipelines.photo_counts import Photos
from pipelines.places import check_keys
from pipelines.rates import Rate, There, assumed_seconds
from pipelines.registry import stage_of
from pipelines.run_tables import Look, Run, closure, photos_of, quietly
from pipelines.spending import expect

log = logging.getLogger(__name__)


def bill_of(look: Look, tables: Iterable[str]) -> Bill:
    """The bill of everything that these tables need and that is not computed yet.

    Args:
        look: a look into the run, with the counts of its photos.
        tables: names of the tables to compute.
    """
    money = assumed_billing(look.config)
    all_asks, all_tasks = asks(look, tables), tasks(look, tables)
    there = There(look, [ask.stage for ask in all_asks] + [task.stage for task in all_tasks])
    lines = [_line(ask, there, money) for ask in all_asks]
    works = [_work_line(task, there, money) for task in all_tasks]
    whole = naming_all(look)
    prices = money.prices
    return Bill(
        lines=tuple(line for line in lines if line.rows),
        naming_all=_priced(whole, whole.rows, whole.row, there.rate("answers", whole.workers.max_workers), money),
        photos=look.photos,
        prices="" if prices is None else f"{prices.date}, {prices.source}",
        image_tokens=image_tokens(look.config.mllm, look.photos.size),
        free=all(ask.model.free for ask in all_asks),
        works=tuple(line for line in works if line.rows and line.epochs),
        currency="" if prices is None or prices.currency else "; the file states no currency, US$ is assumed",
    )


def tell_bill(run: Run, tables: Sequence[str]) -> None:
    """Log the bill, with a warning where it is due, before anything is asked; lists the samples first."""
    run.table("samples")
    look = run.looking()
    unread = measured(look)
    bill = bill_of(look, tables)
    check_keys(run.config, [stage_of(line.ask.stage) for line in bill.lines])
    expect(look, bill)
    _keep_estimates(run, look, bill)
    if bill.lines:
        for line in bill.table() if bill.free else bill.page():
            log.info("%s", line)
    for words in [*unread, *_warnings(run.config, run.folder, bill)]:
        log.warning("%s", words)


def _keep_estimates(run: Run, look: Look, bill: Bill) -> None:
    """Keep the estimates of tables of which nothing is there yet, for the report: those of a rest say less."""
    there = There(look, [])
    known = read_estimates(run.folder)
    found = {line.ask.stage: _estimate(line) for line in bill.lines} | {
        line.task.stage: Estimate(line.rows, seconds=line.seconds, usd=line.usd, source=line.source)
        for line in bill.works
    }
    new = {stage: each for stage, each in found.items() if stage not in known or there.is_whole(stage)}
    if new:
        run.keep(FILE, estimates_json(known | new))


def _estimate(line: Line) -> Estimate:
    load = line.load
    source = line.source if line.seconds is not None else ""
    return Estimate(line.rows, load.requests, load.prompt, load.output, line.seconds, line.usd, source)


def measured(look: Look) -> list[str]:
    """Let the look know the size of a typical photo where the samples are listed; returns a warning if none opens."""
    size, unread = _usual_size(look.table("samples"), look.config)
    look.count(replace(photos_of(look), size=size))
    return unread


def plan(config: Config, tables: Sequence[str]) -> str:
    """The bill as text for a run that is not started; lists the photos where there is no samples table.

    Raises:
        UserError: what is known of the photos shows that a stage cannot run.
    """
    look, unread = Look.of(config), list[str]()
    with quietly():
        unread = measured(look)
    if "samples" not in look.tables:
        if isinstance(config.ingest.source, DRAWN):
            look.count(Photos.drawn(config.ingest.source))
        else:
            with quietly():
                listed = read_source(config.ingest.source, look.folder, config.ingest.limits.allowed_roots)
            look.count(Photos.of_rows(listed.parts(config.ingest.rows_per_part)))
    for stage in (stage_of(name) for name in closure(look, tables)):
        with quietly():  # what needs tables that are not there yet is checked by the run
            stage.recheck(look)
    bill, photos = bill_of(look, tables), look.photos
    splits = ", ".join(f"{split} {count:,}" for split, count in sorted(photos.splits.items()))
    lines = [f"{photos.total:,} photos ({splits})", *bill.page()]
    lines += [f"warning: {words}" for words in [*unread, *_warnings(config, look.folder, bill)]]
    return "\n".join([*lines, "nothing was started"]) + "\n"


def _warnings(config: Config, folder: str, bill: Bill) -> list[str]:
    """Warnings about a bill that is too high, and about a disk that is too small for a whole job."""
    needed = room.bytes_to_come(config, bill.photos, questions=config.questions.keep) if len(bill.lines) > 1 else 0
    return [words for words in (bill.warning(), room.warning(folder, needed)) if words is not None]


def _line(ask: Ask, there: There, money: Billing) -> Line:
    return _priced(ask, there.rows(ask), ask.row, there.rate(ask.stage, ask.workers.max_workers), money)


def _work_line(task: Task, there: There, money: Billing) -> WorkLine:
    rows, epochs = there.left(task)
    workers = task.workers
    pool = workers.num_workers if isinstance(workers, TrainWorkers) else workers.max_workers
    rate = there.rate(task.stage, pool) or there.earlier(task.stage)
    if rate is None or rate.seconds is None:
        return WorkLine(task, rows, epochs)
    seconds, unpriced = rate.seconds * rows * epochs, set[str]()
    usd = usd_of(StageResult(task.stage, seconds, rows, 0), money, unpriced)
    return WorkLine(task, rows, epochs, seconds, None if unpriced else usd, rate.source)


def _priced(ask: Ask, rows: int, row: Load, rate: Rate | None, money: Billing) -> Line:
    if rate is not None and rate.load is not None:
        row = replace(rate.load, requests=row.requests)
    load = row.times(rows)
    seconds, source = assumed_seconds(ask, rows), ASSUMED
    if rate is not None and rate.seconds is not None:
        seconds, source = rate.seconds * rows, rate.source
    usd: float | None = 0.0
    if source == ASSUMED and seconds is not None and not ask.workers.num_gpus:  # assumed rates are for a GPU
        money = replace(money, machines={**money.machines, ask.stage: Machine(ask.workers.num_cpus, 1)})
    if not ask.model.free:
        tokens = {"prompt_tokens": load.prompt, "cached_tokens": load.cached, "output_tokens": load.output}
        result = StageResult(ask.stage, seconds or 0.0, rows, 0, tokens={k: round(v) for k, v in tokens.items()})
        unpriced: set[str] = set()
        by_token = ask.model.billed_by_token
        if by_token:
            money = replace(money, models={**money.models, ask.stage: ask.model.title})
        usd = usd_of(result, money, unpriced)
        usd = None if unpriced or (seconds is None and not by_token) else usd
    return Line(ask, rows, load, seconds, usd, source)


def _usual_size(samples: Table, config: Config) -> tuple[Size, list[str]]:
    """The median size of a few photos; where none can be read, an assumed size and a warning.

    They lie evenly over the table: if not one opens, a disk is not mounted, or a bucket's credentials are missing.
    """
    places: Any = np.unique(np.linspace(0, samples.rows - 1, 5).round().astype(int)) if samples.rows else []
    sizes, errors = list[Size](), list[str]()
    for uri in samples.take(np.array(places, dtype=np.int64), ["uri"])["uri"].to_pylist() if len(places) else []:
        try:
            sizes.append(read_image(uri, config.ingest.limits).size)
        except (ImageError, OSError, StorageRefused) as error:
            errors.append(f"{masked(uri)}: {masked(str(error))}")
    if sizes:
        return sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2], []
    if not errors:
        return PHOTO, []
    return PHOTO, [
        f"none of {len(errors)} photos from all over the source can be read, so perhaps all will fail: {errors[0]}. Is "
        "every disk mounted, and are credentials set where the photos are read?"
    ]
