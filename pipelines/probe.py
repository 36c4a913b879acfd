"""`pipelines/plan.py --probe n`: every stage is computed for a few photos, to know what one photo takes.

A probe is a small run by the same code: the workers, models, servers and settings of the config on n photos drawn from
the source, in a folder inside the run folder that is removed afterwards. No table of the run is written. Replies of
servers are kept where the run keeps them, so that they are paid for once; what they cost counts in the run's spending
and budget.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster import budget
from cluster.ownership import owned
from cluster.part_actor import SECONDS
from cluster.run import open_run
from cluster.run_folder import PROBE, check_run_folder
from fgvr import storage, tables
from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.data import DRAWN
from fgvr.errors import UserError
from fgvr.mllm.openai_server.cache import with_run_replies
from fgvr.sources.sampling import split_ids
from fgvr.sources.source import read_source
from fgvr.tables import Table
from pipelines.asks import Load, asks, tasks
from pipelines.probed import Probed, key_of, write_probed
from pipelines.rates import LIKE
from pipelines.registry import in_order, stage_of
from pipelines.run_tables import Look, Run, quietly
from pipelines.stage import model_of, workers_at

if TYPE_CHECKING:
    import numpy.typing as npt

log = logging.getLogger(__name__)

EPOCHS = 3
"""Passes over the photos in each training run; the last one is timed."""
ASKED = 0.9
"""Share of a stage's requests below which its time says nothing, since the other replies had been kept."""


def probe(config: Config, names: Sequence[str], photos: int) -> list[str]:
    """Compute what these tables need for a few photos, and keep the rates in the run folder; returns them in words.

    Args:
        config: the config of the run.
        names: the tables that are planned.
        photos: number of photos of each split that something is learned from or asked about.

    Raises:
        UserError: drawn photos that are not drawn yet, an empty source, or whatever stops the small run.
        BudgetReached: the photos would cost more than is left of `run.budget`.
    """
    look = Look.of(config)
    with quietly():
        look.table("samples")
    check_run_folder(look.folder)
    place = storage.join(look.folder, PROBE)
    check_run_folder(place)  # it is removed below
    with owned(look.folder), tempfile.TemporaryDirectory() as temporary:
        storage.remove(place)  # left by a probe that was killed
        try:
            rows = _drawn(look, photos)
            wanted = _stages(look, names)
            samples = _as_table(storage.join(place, "tables", "samples", 16 * "0"), rows)
            _copy_spending(look.folder, place)
            small = _small(with_run_replies(config, look.folder), look.folder, rows.num_rows, Path(temporary))
            try:
                with open_run(small) as context:
                    found = _measured(Run(context, given={"samples": samples}), config, wanted)
            finally:
                _copy_spending(place, look.folder)
            write_probed(look.folder, found)
        finally:
            storage.remove(place)
    return [f"probed: {_words(name, each)}" for name, each in found.items()]


def _stages(look: Look, names: Sequence[str]) -> list[str]:
    """The stages whose rates the plan needs: one of those that do the same."""
    planned = [ask.stage for ask in asks(look, names)] + [task.stage for task in tasks(look, names)]
    found = {next((name for name in LIKE.get(stage, ()) if name in planned), stage) for stage in planned}
    names = [name for name in in_order(found) if not _is_free_of_photos(name, look.config)]
    # Those that ask come first, one after the other, so that a model is loaded once.
    return sorted(names, key=lambda name: stage_of(name).model(look.config) is None)


def _is_free_of_photos(name: str, config: Config) -> bool:
    """Whether its work does not grow by the photo: a single call, or a search among vectors."""
    from pipelines.neighbours import SearchStage

    stage = stage_of(name)
    return stage.one_call or isinstance(stage, SearchStage) or workers_at(config, stage.workers(config)) is None


def _drawn(look: Look, photos: int) -> pa.Table:
    """`photos` rows of each split that the job reads, or all where there are fewer."""
    config = look.config
    splits = dict.fromkeys([config.label.images.drawn_from, config.aspects.split, config.makd.split])
    rng = np.random.default_rng(config.label.images.seed)
    samples = look.tables.get("samples")
    parts: Iterable[pa.Table]
    if samples is not None:
        ids = [split_ids(samples, [split]) for split in splits]
        some = [rng.choice(each, min(photos, len(each)), replace=False) for each in ids]
        parts = [samples.take(np.sort(np.concatenate(some)))]
    elif isinstance(config.ingest.source, DRAWN):
        raise UserError(
            "--probe: drawn photos are drawn by the run itself; give python pipelines/ingest.py the same config first"
        )
    else:
        with quietly():
            listed = read_source(config.ingest.source, look.folder, config.ingest.limits.allowed_roots)
        parts = listed.parts(config.ingest.rows_per_part)
    kept = {split: _Reservoir(photos, rng) for split in splits}
    for part in parts:
        for split, reservoir in kept.items():
            reservoir.add(part.filter(pa.compute.equal(part["split"], split)))
    rows = pa.concat_tables([each.rows for each in kept.values() if each.rows is not None]) if kept else None
    if rows is None or not rows.num_rows:
        raise UserError(f"--probe: there is no photo in the splits {', '.join(splits)}")
    return rows


class _Reservoir:
    """A uniform sample of the rows that pass by, of bounded size."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self._rng = size, rng
        self.rows: pa.Table | None = None
        self._keys: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, rows: pa.Table) -> None:
        """Let rows pass by."""
        if not rows.num_rows and self.rows is not None:
            return
        keys = np.concatenate([self._keys, self._rng.random(rows.num_rows)])
        together = rows if self.rows is None else pa.concat_tables([self.rows, rows])
        first = np.sort(np.argsort(keys, kind="stable")[: self.size])
        self.rows, self._keys = together.take(first), keys[first]


def _as_table(uri: str, rows: pa.Table) -> Table:
    """A samples table of these rows, whose ids are their places."""
    ids = pa.array(np.arange(rows.num_rows), rows.schema.field("image_id").type)
    rows = rows.set_column(rows.schema.get_field_index("image_id"), rows.schema.field("image_id"), ids)
    tables.write_part(uri, 0, rows)
    counts = rows["split"].value_counts().to_pylist()
    extra = {"splits": {each["values"]: each["counts"] for each in counts}}
    table = Table(uri, "samples", 16 * "0", rows.num_rows, 0, 1, rows.num_rows, 0.0, extra=extra)
    table.commit()
    return table


def _copy_spending(source: str, target: str) -> None:
    """What was spent before counts in the probe's budget, and what the probe spends in the run's."""
    try:
        data = storage.read_bytes(storage.join(source, budget.FILE))
    except FileNotFoundError:
        return
    storage.write_bytes(storage.join(target, budget.FILE), data)


def _small(config: Config, folder: str, rows: int, temporary: Path) -> Config:
    """The same config for these photos alone: one worker per stage, two parts, few epochs, and a store of its own."""
    half = max(1, -(-rows // 2))
    questions = temporary / "questions.txt"
    keep = config.questions.keep
    questions.write_text("".join(f"Is feature number {number} visible here?\n" for number in range(1, keep + 1)))
    few = {"min_workers": 1, "max_workers": 1, "rows_per_part": half}
    one = {"num_workers": 1, "min_workers": None}

    def changed(part: Any, **fields: Any) -> Any:
        workers = getattr(part, "workers", None)
        if workers is not None:
            fields["workers"] = workers.model_copy(update=one if isinstance(workers, TrainWorkers) else few)
        return part.model_copy(update=fields)

    sizes = {"per_class": None, "max_images": rows}
    training = {"epochs": EPOCHS, "warmup_epochs": 0, "validation_share": 0.0}
    given = {} if config.questions.file is not None else {"file": str(questions), "llm": None}
    return config.model_copy(
        update={
            "run": config.run.model_copy(
                update={"folder": folder, "name": PROBE, "max_error_share": 1.0, "retry_failed": False}
            ),
            "tracking": config.tracking.model_copy(
                update={"uri": f"sqlite:///{temporary / 'mlflow.db'}", "log_models": False}
            ),
            "label": changed(
                config.label,
                images=config.label.images.model_copy(update=sizes),
                duplicate_similarity=None,
                aliases=None,
            ),
            "embed": changed(config.embed, splits=None, images="all"),
            "near": changed(config.near, **training),
            "questions": changed(config.questions, **given),
            "aspects": changed(config.aspects, max_images=rows),
            "class_scores": changed(config.class_scores),
            "signatures": changed(config.signatures),
            "hierarchy": changed(config.hierarchy),
            "augment": changed(config.augment),
            "makd": changed(
                config.makd,
                **training,
                images="asked",
                fraction=1.0,
                max_steps=None,
                milestones=(),
                freeze_epochs=0,  # those that follow take longer
            ),
            "infer": changed(config.infer, split=None),
        }
    )


def _measured(run: Run, config: Config, names: Sequence[str]) -> dict[str, Probed]:
    """The rates of these stages; one that cannot be computed from so few photos is left out, and it is said why."""
    from pipelines.estimate import bill_of
    from pipelines.spending import expect

    found: dict[str, Probed] = {}
    look = run.looking()
    expect(look, bill_of(look, names))  # or else a used-up budget would not stop the first part
    expected = {ask.stage: ask.row.requests for ask in asks(look, names)}
    for name in names:
        before = _paid_requests()
        try:
            table = run.table(name)
        except budget.BudgetReached:
            raise
        except UserError as error:
            log.warning("probe: %s cannot be measured: %s", name, error)
            continue
        if not table.rows:
            log.warning("probe: %s cannot be measured: it has nothing to do for these photos", name)
            continue
        paid = _paid_requests() - before
        model = model_of(stage_of(name), config)
        by_token = model is not None and model.billed_by_token
        was_asked = not by_token or paid >= ASKED * expected.get(name, 0.0) * (table.rows - table.failed)
        found[name] = _rate(run, table, key_of(name, config), was_asked=was_asked)
        if table.failed:
            log.warning("probe: %s: %d of %d photos failed (%s)", name, table.failed, table.rows, table.failures)
    return found


def _paid_requests() -> int:
    spending = budget.current()
    return 0 if spending is None else sum(each.requests for each in spending.ledger.models.values())


def _rate(run: Run, table: Table, key: str, *, was_asked: bool) -> Probed:
    """The rate of one worker per row and pass, by the stage's own clock."""
    workers = workers_at(run.config, stage_of(table.name).workers(run.config))
    metrics: Mapping[str, float] = table.extra.get("metrics", {})
    if isinstance(workers, Workers):
        last = tables.part_summary(table.uri, table.parts - 1)  # before the first, models were loaded and warmed up
        seconds = last[SECONDS] / max(last["rows"], 1) if was_asked else None
        return Probed(key, table.rows, seconds, _load(table, metrics))
    if "steps_per_second" in metrics:  # a step's cost is that of the names, and grows with their number
        names = run.table("labels").extra.get("metrics", {}).get("labels", 0)
        each = 1 / (metrics["steps_per_second"] * run.config.near.batch_size)
        return Probed(key, table.rows, each, at_least=f"with {names:.0f} names; more take longer")
    return Probed(key, table.rows, 1 / metrics["images_per_second"])


def _load(table: Table, metrics: Mapping[str, float]) -> Load | None:
    prompt, good = metrics.get("prompt_tokens", 0), table.rows - table.failed
    if not prompt or not good:
        return None
    cached, output = metrics.get("cached_tokens", 0), metrics.get("output_tokens", 0)
    return Load(0, prompt / good, cached / good, output / good)


def _words(name: str, found: Probed) -> str:
    seconds = (
        "time not measured, as replies had been kept" if found.seconds is None else f"{found.seconds:.3g} s a photo"
    )
    tokens = "" if found.load is None else f", {found.load.prompt:,.0f} tokens in, {found.load.output:,.0f} out"
    return f"{name}: {found.photos} photos, {seconds}{tokens}"
