"""The search for nearest images, of which `candidates` makes its sets and `duplicates` its groups.

Small sets are searched by these stages themselves. Where the plan (`fgvr.neighbours.plan`) says so, the search is a
stage of its own: it writes the vectors to memory-mapped files, block by block, and searches in tasks on the cluster; a
part is a block of queries against all vectors of a shard. Its table has a row for each image that has a vector; its
metadata hold the plan with its reasons and the recall. docs/neighbours.md.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cluster import lease
from cluster.once import run_once
from cluster.parts import PartJob, run_parts
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import schemas, storage
from fgvr.candidates import Ids
from fgvr.discovery_neighbours import (
    Flags,
    Layout,
    discovery_vectors,
    from_rows,
    labelled_neighbours,
    streamed_layout,
    vector_blocks,
)
from fgvr.neighbours import Neighbours, Plan, Size, Wanted, plan
from fgvr.neighbours.machine import Machine, this_machine
from fgvr.neighbours.nearest import SMALL
from fgvr.neighbours.plan import EXACT_SECONDS
from fgvr.neighbours.search_worker import MergeWorker, SearchTask, SearchWorker, prepare_index, read_neighbours
from fgvr.neighbours.vector_files import write
from fgvr.tables import Table
from pipelines.looking import NotThere

log = logging.getLogger(__name__)

FILES, READY = "files", "ready.json"
WORKERS = "neighbours.workers"
RULES = 1
"""Raised when the same vectors come to have other neighbours: what counts as one photo, how ties are told."""
OTHERS = "others"
"""Key in the file of plans: those that were made before the last one, for other sizes and settings."""


@dataclass(frozen=True)
class Among:
    """Who is searched for among whom: the discovery images, and which of them are the database.

    Attributes:
        ids: of the images, int64 [N], ascending.
        labelled: bool [N], is in the database if it has a vector, too.
        photos: int64 [N], row of the first image of the same photo; None: equal vectors are one photo.
    """

    ids: Ids
    labelled: Flags
    photos: Ids | None = None


class Search:
    """The k nearest labelled images of every discovery image.

    Attributes:
        inputs: the table of the search, where it was done in tasks; else nothing.
    """

    def __init__(
        self,
        context: RunContext,
        name: str,
        tables: Mapping[str, Table],
        *,
        size: Size,
        k: int,
        among: Callable[[], Among],
    ) -> None:
        """Plan the search, and do it if it is one of tasks.

        Args:
            context: the run.
            name: of the search's table, if there is one.
            tables: `samples`, `embeddings`, and the others that say who is in the database.
            size: of the search.
            k: neighbours wanted, the image itself included.
            among: asked only when something is to be searched.
        """
        self.context, self.tables, self.k, self.among = context, tables, k, among
        self.plan = plan_search(context, name, size)
        self.inputs = [self._in_tasks(name, self.plan)] if self.plan is not None and self.plan.tasks else []

    @property
    def decides(self) -> dict[str, object]:
        """What of the search decides what is found: nothing but its rules where it is exact, however it is done."""
        if self.plan is None or self.plan.method == "exact":
            return {"method": "exact", "rules": RULES}
        recall = wanted(self.context).recall
        return {"method": self.plan.method, "lists": self.plan.lists, "recall": recall, "rules": RULES}

    def find(self) -> tuple[Neighbours, Flags]:
        """As row numbers of the discovery images, and which of these have a vector: bool [N]."""
        among, embeddings = self.among(), self.tables["embeddings"]
        if self.inputs:
            return _read(self.inputs[0], embeddings, among, self.k)
        vectors, embedded = discovery_vectors(embeddings, among.ids)
        found = labelled_neighbours(
            vectors,
            embedded,
            among.labelled,
            self.k,
            photos=among.photos,
            wanted=wanted(self.context),
            how=self.plan,
        )
        return found, embedded

    def _in_tasks(self, name: str, how: Plan) -> Table:
        def compute(folder: StageFolder) -> StageSummary:
            among, embeddings = self.among(), self.tables["embeddings"]
            who = streamed_layout(embeddings, among.ids, among.labelled, among.photos)
            work = _Work(folder, self.tables["samples"], among.ids[who.queries], self.k, how)
            work.write_vectors(embeddings, among.ids, who)
            return work.search()

        decides = {
            "k": self.k,
            "plan": {"method": how.method, "lists": how.lists, "shards": how.shards},
            "recall": None if how.method == "exact" else wanted(self.context).recall,
        }
        inputs = [table for key, table in self.tables.items() if key != "samples"]
        workers = self.context.config.neighbours.workers
        return self.context.stage(name, decides=decides, inputs=inputs, compute=compute, workers=workers)


def _read(table: Table, embeddings: Table, among: Among, k: int) -> tuple[Neighbours, Flags]:
    parts = [read_neighbours(part, k) for part in table.batches(["neighbour_ids", "neighbour_scores"])]
    found_ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    who = streamed_layout(embeddings, among.ids, among.labelled, among.photos)
    embedded = np.zeros(len(among.ids), bool)
    embedded[who.queries] = True
    return from_rows(found_ids, scores, who, among.ids, table.extra["search"]), embedded


def wanted(context: RunContext) -> Wanted:
    """What the config asks of a search."""
    search = context.config.neighbours
    return Wanted(search.method, search.recall, search.exact_seconds)


def plan_search(context: RunContext, name: str, size: Size) -> Plan | None:
    """The plan of the search `name`; None for one so small that it needs none.

    A run keeps its plans, one for each size and settings that it was asked for: rates differ from time to time, and
    settings that come back must find what was computed with them.
    """
    search = context.config.neighbours
    if search.tasks is None and search.method == "auto" and size.operations < SMALL:
        return None
    file = f"{name}_plan.json"
    # How many workers there are changes how long it takes; only another device is planned for anew.
    asked = search.model_dump(mode="json", exclude={"workers"}) | {"gpu": search.workers.num_gpus > 0}
    key = json.loads(json.dumps([asdict(size), asdict(wanted(context)), asked]))
    plans = _plans(storage.join(context.folder, file))
    for known in plans:
        kept = Plan.read(known["plan"])
        if known["key"] == key and (kept.tasks or kept.product.device == "cpu"):
            return kept
    if not context.computes:
        raise NotThere(name)  # its plan is measured where the workers are
    how = _planned(context, size)
    facts = {"key": key, "plan": asdict(how), OTHERS: [known for known in plans if known["key"] != key]}
    context.keep(file, json.dumps(facts, indent=1).encode())
    log.info("%s: %s", name, "; ".join(how.reasons))
    return how


def _plans(place: str) -> list[dict[str, Any]]:
    """Plans with what they were made for, the last one first; earlier versions kept no others."""
    if not storage.exists(place):
        return []
    last = json.loads(storage.read_bytes(place))
    return [last, *last.pop(OTHERS, [])]


def _planned(context: RunContext, size: Size) -> Plan:
    """A plan for the machine that will compute it.

    A GPU is a worker's. This process has none, or shares one with the workers that Ray gave it to: what it does itself
    is planned for its CPU, and what would take long there is done in tasks.
    """
    search, asked = context.config.neighbours, wanted(context)
    if search.workers.num_gpus:
        threads = len(os.sched_getaffinity(0))
        here = _with_memory(context, this_machine("cpu", threads))
        if search.tasks is None:
            own = plan(size, here, asked)
            as_asked = own.method == "exact" or asked.method == "ivf"
            if as_asked and not own.tasks and own.seconds <= EXACT_SECONDS["cpu"]:
                return own
            how = plan(size, _machine(context), asked)
            return _where(how, True, "in tasks on the cluster: this process has no GPU of its own")
        if not search.tasks:
            return _where(plan(size, here, asked), False, "neighbours.tasks is False")
    how = plan(size, _machine(context), asked)
    if search.tasks is None or search.tasks == how.tasks:
        return how
    return _where(how, search.tasks, f"neighbours.tasks is {search.tasks}")


def _where(how: Plan, tasks: bool, why: str) -> Plan:
    """The plan, done in tasks or here, with the last of its reasons changed."""
    return replace(how, tasks=tasks, reasons=(*how.reasons[:-1], why))


def _machine(context: RunContext) -> Machine:
    """What a worker can do, measured where it runs; as many as there may be."""
    search = context.config.neighbours
    device, threads = ("cuda" if search.workers.num_gpus else "cpu"), max(1, int(search.workers.num_cpus))
    machine = _with_memory(context, run_once(this_machine, device, threads, workers=search.workers))
    return machine.times(search.workers.max_workers)


def _with_memory(context: RunContext, machine: Machine) -> Machine:
    """The machine with the memory that the config gives it, where it does."""
    memory = context.config.neighbours.memory_gb
    return machine if memory is None else replace(machine, memory=memory * 2**30)


class _Work:
    """The search of one stage folder, step by step; each step is skipped where an earlier session has done it."""

    def __init__(self, folder: StageFolder, samples: Table, ids: Ids, k: int, how: Plan) -> None:
        self.folder, self.samples, self.ids, self.k, self.how = folder, samples, ids, k, how
        search = folder.context.config.neighbours
        # The shards' parts and those of their merge hold the same queries.
        size = folder.rows_per_part(search.workers.rows_per_part)
        self.config = search.model_copy(update={"workers": search.workers.model_copy(update={"rows_per_part": size})})
        self.queries = folder.path(FILES, "queries")
        self.shards = [folder.path(FILES, f"shard-{number:05d}") for number in range(how.shards)]

    def write_vectors(self, embeddings: Table, ids: Ids, who: Layout) -> None:
        """Vectors of the queries and of each shard as files that workers map into memory."""
        ready = self.folder.path(FILES, READY)
        if storage.exists(ready):
            return
        dim, members = int(embeddings.extra["dim"]), ids[who.members]
        own = np.where(who.own < 0, -1, members[who.own] if len(members) else -1)
        write(self.queries, self.ids, dim, vector_blocks(embeddings, self.ids), own)
        for place, part in zip(self.shards, np.array_split(members, len(self.shards)), strict=True):
            write(place, part, dim, vector_blocks(embeddings, part))
        storage.write_bytes(ready, b"{}")

    def search(self) -> StageSummary:
        """All parts of all shards, then their merge."""
        threads = max(1, int(self.config.workers.num_cpus))
        tasks = [SearchTask(self.queries, shard, self.k, self.how, threads) for shard in self.shards]
        recalls, probed = [1.0], 0
        if self.how.method == "ivf":
            tasks, recalls = map(list, zip(*(self._with_index(task) for task in tasks), strict=True))
            probed = max(task.probed for task in tasks)
        if len(tasks) == 1:
            job = self._job(self.folder.uri, SearchWorker, {"task": tasks[0]})
            summary = self.folder.run_parts(job, self.ids, WORKERS)
        else:
            places = [storage.join(task.shard, "found") for task in tasks]
            for place, task in zip(places, tasks, strict=True):
                run_parts(self._job(place, SearchWorker, {"task": task}), self.ids, field=WORKERS)
            size = self.config.workers.rows_per_part
            arguments = {"queries": self.queries, "shards": places, "rows_per_part": size, "k": self.k}
            job = self._job(self.folder.uri, MergeWorker, arguments)
            summary = self.folder.run_parts(job, self.ids, WORKERS)
        lease.check(self.folder.uri)
        storage.remove(self.folder.path(FILES))
        summary.metrics = {"recall": min(recalls)}
        exact = [task.how for task in tasks if task.how.method == "exact"]
        facts = (exact[0] if len(exact) == len(tasks) else self.how).facts()
        if 0 < len(exact) < len(tasks):
            facts["reasons"] += [how.reasons[-1] for how in exact]
        facts |= {"recall": min(recalls)} | ({"probed": probed} if probed else {})
        summary.extra = {"search": facts}
        return summary

    def _with_index(self, task: SearchTask) -> tuple[SearchTask, float]:
        """The task with its shard's inverted file made, and the recall that it reaches."""
        known = storage.join(task.shard, "tuned.json")
        if not storage.exists(known):
            probed, recall = run_once(prepare_index, task, self.config.recall, workers=self.config.workers)
            storage.write_bytes(known, json.dumps([probed, recall]).encode())
        probed, recall = json.loads(storage.read_bytes(known))
        if not probed:
            shard = task.shard.rsplit("/", 1)[-1]
            how = task.how.exactly(f"{shard}: its lists find less than neighbours.recall = {self.config.recall:g}")
            log.warning("%s: %s", self.folder.name, how.reasons[-1])
            return replace(task, how=how), recall
        return replace(task, probed=probed), recall

    def _job(self, folder: str, worker: type, arguments: dict[str, object]) -> PartJob:
        name = self.folder.name
        if folder != self.folder.uri:
            name = f"{name} of {folder.rsplit('/', 2)[-2]}"
        return PartJob(
            name, folder, worker, arguments, schemas.NEIGHBOURS, self.samples, self.config.workers, ("image_id",)
        )
