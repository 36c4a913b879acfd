"""The nearest-neighbour search from which `candidates` builds its sets and `duplicates` its groups.

These stages search small sets themselves. Where the plan (`fgvr.neighbours.plan`) says so, the search is a stage of its
own, with the table `neighbours` or `duplicates_neighbours`: it writes the vectors block by block to memory-mapped files
and searches in tasks on the cluster; a part is a block of queries against all vectors of a shard. Its table has one row
per image with a vector; its metadata hold the plan with its reasons, and the recall. See docs/neighbours.md.
"""

from __future__ import annotations

import json
import logging
import os
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fgvr import storage
from pipelines.asks import Work, sampled
from pipelines.run_tables import NotThere, Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.parts import PartJob
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.config import Config
    from fgvr.neighbours import Neighbours, Plan, Size, Wanted
    from fgvr.neighbours.discovery import Flags, Layout
    from fgvr.neighbours.machine import Machine
    from fgvr.neighbours.search_worker import SearchTask
    from fgvr.tables import Table


log = logging.getLogger(__name__)

FILES, READY = "files", "ready.json"
WORKERS = "neighbours.workers"
RULES = 1
"""Increased when the same vectors get other neighbours: by what counts as one photo, or how ties are broken."""
OTHERS = "others"
"""Key in the file of plans: earlier plans, made for other sizes and settings."""


@dataclass(frozen=True)
class Among:
    """Queries and database of a search: the discovery images, and which of them are in the database.

    Attributes:
        ids: ids of the images, int64 [N], ascending.
        labelled: bool [N], whether the image is in the database, if it also has a vector.
        photos: int64 [N], row of the first image of the same photo; None: equal vectors count as one photo.
    """

    ids: Ids
    labelled: Flags
    photos: Ids | None = None


class SearchStage(Stage):
    """The k nearest images of every discovery image; a table of its own where the search runs in tasks."""

    def workers(self, config: Config) -> str | None:
        """The workers of the search."""
        return WORKERS

    def works(self, run: Run) -> Work:
        """One search per discovery image."""
        return Work(sampled(run.config, run.photos))

    @abstractmethod
    def size(self, run: Run) -> Size:
        """Number of queries and of database vectors."""

    @abstractmethod
    def k(self, config: Config) -> int:
        """Number of neighbours wanted, counting the image itself."""

    @abstractmethod
    def among(self, run: Run) -> Among:
        """Queries and database; called only when a search runs."""

    def plan(self, run: Run) -> Plan | None:
        """The plan of the search; None for a search so small that it needs none."""
        plans = run.memory.setdefault(SearchStage.plan, {})
        if self.table not in plans:
            plans[self.table] = plan_search(run, self.table, self.size(run))
        plan: Plan | None = plans[self.table]
        return plan

    def names(self, run: Run) -> tuple[str, ...]:
        """The name of its table, where the search is a stage; otherwise nothing."""
        how = self.plan(run)
        return (self.table,) if how is not None and how.tasks else ()

    def decides(self, run: Run) -> dict[str, object]:
        """What decides the neighbours found: only `RULES` for an exact search, wherever it runs."""
        how = self.plan(run)
        if how is None or how.method == "exact":
            return {"method": "exact", "rules": RULES}
        return {"method": how.method, "lists": how.lists, "recall": wanted(run).recall, "rules": RULES}

    def find(self, run: Run) -> tuple[Neighbours, Flags]:
        """Neighbours as row numbers of the discovery images; and which of these have a vector, bool [N]."""
        from fgvr.neighbours.discovery import discovery_vectors, labelled_neighbours

        among, embeddings, k = self.among(run), run.table("embeddings"), self.k(run.config)
        if self.names(run):
            return _read(run.table(self.table), embeddings, among, k)
        vectors, embedded = discovery_vectors(embeddings, among.ids)
        found = labelled_neighbours(
            vectors, embedded, among.labelled, k, photos=among.photos, wanted=wanted(run), how=self.plan(run)
        )
        return found, embedded

    def recipe(self, run: Run) -> dict[str, Any]:
        """The number of neighbours, and how they are found."""
        how = self._in_tasks(run)
        return {
            "k": self.k(run.config),
            "plan": {"method": how.method, "lists": how.lists, "shards": how.shards},
            "recall": None if how.method == "exact" else wanted(run).recall,
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Write the vectors to files, search all parts of all shards, then merge."""
        from fgvr.neighbours.discovery import streamed_layout

        among, embeddings = self.among(run), run.table("embeddings")
        who = streamed_layout(embeddings, among.ids, among.labelled, among.photos)
        work = _Work(folder, run, among.ids[who.queries], self.k(run.config), self._in_tasks(run))
        work.write_vectors(embeddings, among.ids, who)
        return work.search()

    def _in_tasks(self, run: Run) -> Plan:
        how = self.plan(run)
        if how is None:
            raise ValueError(f"{self.table}: so small a search is none of tasks")
        return how


def _read(table: Table, embeddings: Table, among: Among, k: int) -> tuple[Neighbours, Flags]:
    import numpy as np

    from fgvr.neighbours.discovery import from_rows, streamed_layout
    from fgvr.neighbours.search_worker import read_neighbours

    parts = [read_neighbours(part, k) for part in table.batches(["neighbour_ids", "neighbour_scores"])]
    found_ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    who = streamed_layout(embeddings, among.ids, among.labelled, among.photos)
    embedded = np.zeros(len(among.ids), bool)
    embedded[who.queries] = True
    return from_rows(found_ids, scores, who, among.ids, table.extra["search"]), embedded


def wanted(run: Run) -> Wanted:
    """The config's requirements for a search."""
    from fgvr.neighbours import Wanted

    search = run.config.neighbours
    return Wanted(search.method, search.recall, search.exact_seconds)


def plan_search(run: Run, name: str, size: Size) -> Plan | None:
    """The plan of the search `name`; None for one so small that it needs none.

    A run keeps a plan for each size and settings it has met: measured rates vary, and settings that are used again must
    find what was computed with them.
    """
    from fgvr.neighbours import Plan
    from fgvr.neighbours.nearest import SMALL

    search = run.config.neighbours
    if search.tasks is None and search.method == "auto" and size.operations < SMALL:
        return None
    file = f"{name}_plan.json"
    # The number of workers changes only the duration; only another device needs a new plan.
    asked = search.model_dump(mode="json", exclude={"workers"}) | {"gpu": search.workers.num_gpus > 0}
    key = json.loads(json.dumps([asdict(size), asdict(wanted(run)), asked]))
    plans = _plans(storage.join(run.folder, file))
    for known in plans:
        kept = Plan.read(known["plan"])
        if known["key"] == key and (kept.tasks or kept.product.device == "cpu"):
            return kept
    if not run.computes:
        raise NotThere(name)  # the plan needs rates that are measured on a worker
    how = _planned(run, size)
    facts = {"key": key, "plan": asdict(how), OTHERS: [known for known in plans if known["key"] != key]}
    run.keep(file, json.dumps(facts, indent=1).encode())
    log.info("%s: %s", name, "; ".join(how.reasons))
    return how


def _plans(place: str) -> list[dict[str, Any]]:
    """Plans with the sizes and settings they were made for, latest first; earlier versions kept only the latest."""
    if not storage.exists(place):
        return []
    last = json.loads(storage.read_bytes(place))
    return [last, *last.pop(OTHERS, [])]


def _planned(run: Run, size: Size) -> Plan:
    """A plan for the machine that will run the search.

    GPUs belong to workers. This process has none, or shares one with the workers to which Ray assigned it. So a search
    in this process is planned for its CPU, and a search that would take long there runs in tasks.
    """
    from fgvr.neighbours import plan
    from fgvr.neighbours.machine import this_machine
    from fgvr.neighbours.plan import EXACT_SECONDS

    search, asked = run.config.neighbours, wanted(run)
    if search.workers.num_gpus:
        threads = len(os.sched_getaffinity(0))
        here = _with_memory(run, this_machine("cpu", threads))
        if search.tasks is None:
            own = plan(size, here, asked)
            as_asked = own.method == "exact" or asked.method == "ivf"
            if as_asked and not own.tasks and own.seconds <= EXACT_SECONDS["cpu"]:
                return own
            how = plan(size, _machine(run), asked)
            return _where(how, True, "in tasks on the cluster: this process has no GPU of its own")
        if not search.tasks:
            return _where(plan(size, here, asked), False, "neighbours.tasks is False")
    how = plan(size, _machine(run), asked)
    if search.tasks is None or search.tasks == how.tasks:
        return how
    return _where(how, search.tasks, f"neighbours.tasks is {search.tasks}")


def _where(how: Plan, tasks: bool, why: str) -> Plan:
    """The plan, to run in tasks or in this process, with its last reason replaced."""
    return replace(how, tasks=tasks, reasons=(*how.reasons[:-1], why))


def _machine(run: Run) -> Machine:
    """The speed of a worker, measured where it runs, and the largest number of workers."""
    from cluster.once import run_once
    from fgvr.neighbours.machine import this_machine

    search = run.config.neighbours
    device, threads = ("cuda" if search.workers.num_gpus else "cpu"), max(1, int(search.workers.num_cpus))
    machine = _with_memory(run, run_once(this_machine, device, threads, workers=search.workers))
    return machine.times(search.workers.max_workers)


def _with_memory(run: Run, machine: Machine) -> Machine:
    """The machine, with the memory that the config sets, if any."""
    memory = run.config.neighbours.memory_gb
    return machine if memory is None else replace(machine, memory=memory * 2**30)


class _Work:
    """The search in one stage folder, step by step; each step is skipped where an earlier session has done it."""

    def __init__(self, folder: StageFolder, run: Run, ids: Ids, k: int, how: Plan) -> None:
        self.folder, self.samples, self.ids, self.k, self.how = folder, run.table("samples"), ids, k, how
        search = run.config.neighbours
        # The shards' parts and those of their merge hold the same queries.
        size = folder.rows_per_part(search.workers.rows_per_part)
        self.config = search.model_copy(update={"workers": search.workers.model_copy(update={"rows_per_part": size})})
        self.queries = folder.path(FILES, "queries")
        self.shards = [folder.path(FILES, f"shard-{number:05d}") for number in range(how.shards)]

    def write_vectors(self, embeddings: Table, ids: Ids, who: Layout) -> None:
        """Vectors of the queries and of each shard as files that workers map into memory."""
        import numpy as np

        from fgvr.neighbours.discovery import vector_blocks
        from fgvr.neighbours.search_worker import write

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
        from cluster import lease
        from cluster.parts import run_parts
        from fgvr.neighbours.search_worker import MergeWorker, SearchTask, SearchWorker

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
        from cluster.once import run_once
        from fgvr.neighbours.search_worker import prepare_index

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
        from cluster.parts import PartJob
        from fgvr import schemas

        name = self.folder.name
        if folder != self.folder.uri:
            name = f"{name} of {folder.rsplit('/', 2)[-2]}"
        return PartJob(
            name, folder, worker, arguments, schemas.NEIGHBOURS, self.samples, self.config.workers, ("image_id",)
        )
