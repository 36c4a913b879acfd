"""What a run will ask and cost: told before the first model is asked, and by `--plan` without starting anything.

US$ come from `evaluate.prices`, else from the prices that this version ships, by the arithmetic of the report's "Time
and money".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fgvr import storage
from fgvr.config import Config
from fgvr.config.data import DRAWN, Source
from fgvr.datasets import read_source
from fgvr.images import ImageError, read_image
from fgvr.mllm.backends import backend_identity
from fgvr.mllm.openai_server.cache import with_run_replies
from fgvr.mllm.request_tokens import PHOTO, Size, image_tokens
from fgvr.report.costs import Billing, Machine, usd_of
from fgvr.report.prices import SHIPPED, read_prices
from fgvr.report.results import StageResult
from fgvr.tables import Table
from pipelines import room
from pipelines.asks import Ask, Load, asks, naming_all
from pipelines.bill import Bill, Line
from pipelines.billing import billing
from pipelines.flow import Flow
from pipelines.looking import Looking, quietly
from pipelines.needs import Target, asking
from pipelines.photo_counts import Photos, may_have_truth
from pipelines.places import check_keys
from pipelines.preflight import check_naming, check_questions
from pipelines.rates import Rate, There, assumed_seconds
from pipelines.room import bytes_to_come

log = logging.getLogger(__name__)


def bill_of(config: Config, folder: str, samples: Table | None, targets: Iterable[Target], photos: Photos) -> Bill:
    """The bill of what targets need and is not there.

    Args:
        config: of the run.
        folder: of the run.
        samples: the samples table; None: nothing of the run is there.
        targets: what is to be computed.
        photos: counts of the samples.
    """
    config = with_run_replies(config, folder)
    money = billing(config)
    if money.prices is None:
        money = replace(money, prices=read_prices(SHIPPED))
    all_asks = asks(config, photos, targets)
    there = There(config, folder, [ask.stage for ask in all_asks]) if samples is not None else None
    lines = [_line(ask, there, money) for ask in all_asks]
    whole = naming_all(config, photos)
    rate = None if there is None else there.rate("answers")
    prices = money.prices
    return Bill(
        lines=tuple(line for line in lines if line.rows),
        naming_all=_priced(whole, whole.rows, whole.row, rate, money),
        photos=photos,
        prices="" if prices is None else f"{prices.date}, {prices.source}",
        image_tokens=image_tokens(config.mllm, photos.size),
        free=all(ask.model.free for ask in all_asks),
    )


def tell_bill(flow: Flow, targets: Sequence[Target]) -> None:
    """Log the bill, and the warning where it is due, before anything is asked; the samples are listed first."""
    context, samples = flow.context, flow.samples
    photos = Photos.of_rows(samples.batches(["split", "class_id"]), _usual_size(samples, context.config))
    bill = bill_of(context.config, context.folder, samples, targets, photos)
    check_keys(context.config, [line.ask.stage for line in bill.lines])
    if bill.lines:
        for line in bill.table():
            log.info("%s", line)
    for words in _warnings(context.config, context.folder, bill):
        log.warning("%s", words)


def check_asked(config: Config, targets: Sequence[Target]) -> None:
    """What the stages that ask need: models, questions, aliases, keys. Each raises a UserError of its own.

    A key is wanted where something is left to ask: where photos are listed already, `tell_bill` knows what that is.
    """
    looking = Looking(config, _folder(config))
    with quietly():
        Flow(looking).samples  # noqa: B018  # looks for it
    stages = set(asking(config, _expected(config.ingest.source), targets))
    if {"answers", "looks"} & stages:
        check_naming(config)
    if {"aspects", "looks", "questions"} & stages:
        check_questions(config)
    if "samples" not in looking.found:
        check_keys(config, stages)
    for model in [config.mllm] if stages - {"questions", "finer_answers"} else []:
        backend_identity(model)  # finds the model without fetching its weights


def _expected(source: Source) -> Photos:
    """As far as a source says what it will list."""
    if isinstance(source, DRAWN):
        return Photos.drawn(source)
    if not may_have_truth(source):
        return Photos({"train": 1})
    return Photos({"train": 1, "test": 1}, {"train": Counter([0]), "test": Counter([0])})


def _folder(config: Config) -> str:
    return storage.join(storage.absolute(config.run.folder), config.run.name)


def plan(config: Config, targets: Sequence[Target]) -> str:
    """The same as text for a run that is not started: photos are listed where no table of them is there."""
    folder = _folder(config)
    flow = Flow(Looking(config, folder))
    samples: Table | None = None
    with quietly():
        samples = flow.samples
    if samples is not None:
        photos = Photos.of_rows(samples.batches(["split", "class_id"]), _usual_size(samples, config))
    elif isinstance(config.ingest.source, DRAWN):
        photos = Photos.drawn(config.ingest.source)
    else:
        with quietly():
            listed = read_source(config.ingest.source, folder, config.ingest.limits.allowed_roots)
        photos = Photos.of_rows(listed.parts(config.ingest.rows_per_part))
    bill = bill_of(config, folder, samples, targets, photos)
    splits = ", ".join(f"{split} {count:,}" for split, count in sorted(photos.splits.items()))
    lines = [f"{photos.total:,} photos ({splits})", *bill.table()]
    lines += [f"warning: {words}" for words in _warnings(config, folder, bill)]
    return "\n".join([*lines, "nothing was started"]) + "\n"


def _warnings(config: Config, folder: str, bill: Bill) -> list[str]:
    """Of a bill that is too high, and of a disk that is too small for a job that is to be done as a whole."""
    needed = bytes_to_come(config, bill.photos, questions=config.questions.keep) if len(bill.lines) > 1 else 0
    return [words for words in (bill.warning(), room.warning(folder, needed)) if words is not None]


def _line(ask: Ask, there: There | None, money: Billing) -> Line:
    rows = ask.rows if there is None else there.rows(ask)
    return _priced(ask, rows, ask.row, None if there is None else there.rate(ask.stage), money)


def _priced(ask: Ask, rows: int, row: Load, rate: Rate | None, money: Billing) -> Line:
    if rate is not None and rate.load is not None:
        row = replace(rate.load, requests=row.requests)
    load = row.times(rows)
    seconds, measured = assumed_seconds(ask, rows), False
    if rate is not None:
        seconds, measured = rate.seconds * rows, True
    usd: float | None = 0.0
    if not measured and seconds is not None and not ask.workers.num_gpus:  # those of a GPU
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
    return Line(ask, rows, load, seconds, usd, measured)


def _usual_size(samples: Table, config: Config) -> Size:
    """The middle one of a few photos' sizes; what is assumed where none can be read."""
    places = np.unique(np.linspace(0, samples.rows - 1, 5).round().astype(int)) if samples.rows else []
    sizes = []
    for uri in samples.take(np.array(places, dtype=np.int64), ["uri"])["uri"].to_pylist() if len(places) else []:
        try:
            sizes.append(read_image(uri, config.ingest.limits).size)
        except (ImageError, OSError):
            continue
    return sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2] if sizes else PHOTO
