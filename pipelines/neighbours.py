"""The search for nearest labelled images in tasks on the cluster. In: samples, labels, embeddings. Out: neighbours.

Small sets are searched by `candidates` itself. Where the plan (`fgvr.neighbours.plan`) says so, this stage writes the
vectors to memory-mapped files, block by block, and searches in tasks: a part is a block of queries against all vectors
of a shard. The table `neighbours` has a row for each image that has a vector; its metadata hold the plan with its
reasons and the recall. docs/neighbours.md.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace

import numpy as np

from cluster.once import run_once
from cluster.parts import PartJob, run_parts
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import schemas, storage
from fgvr.candidates import Ids
from fgvr.discovery_neighbours import Flags, Layout, from_rows, streamed_layout, vector_blocks
from fgvr.neighbours import Neighbours, Plan, Size, Wanted, plan
from fgvr.neighbours.machine import Machine, this_machine
from fgvr.neighbours.nearest import SMALL
from fgvr.neighbours.search_worker import MergeWorker, SearchTask, SearchWorker, prepare_index, read_neighbours
from fgvr.neighbours.vector_files import write
from fgvr.tables import Table

log = logging.getLogger(__name__)

PLAN_FILE = "neighbours_plan.json"
FILES, READY = "files", "ready.json"


@dataclass(frozen=True)
class Searched:
    """The neighbours table, the same as arrays for all N discovery images, and whether each has a vector: bool [N]."""

    table: Table
    found: Neighbours
    embedded: Flags


def wanted(context: RunContext) -> Wanted:
    """What the config asks of a search."""
    search = context.config.neighbours
    return Wanted(search.method, search.recall, search.exact_seconds)


def plan_search(context: RunContext, size: Size) -> Plan | None:
    """The plan; None for a search so small that it needs none. A run keeps its plan: rates differ from time to time."""
    search = context.config.neighbours
    if search.tasks is None and search.method == "auto" and size.operations < SMALL:
        return None
    place = storage.join(context.folder, PLAN_FILE)
    key = json.loads(json.dumps([asdict(size), asdict(wanted(context)), search.model_dump(mode="json")]))
    if storage.exists(place):
        known = json.loads(storage.read_bytes(place))
        if known["key"] == key:
            return Plan.read(known["plan"])
    how = plan(size, _machine(context), wanted(context))
    if search.tasks is not None and search.tasks != how.tasks:
        how = replace(how, tasks=search.tasks, reasons=(*how.reasons[:-1], f"neighbours.tasks is {search.tasks}"))
    storage.write_bytes(place, json.dumps({"key": key, "plan": asdict(how)}, indent=1).encode())
    log.info("neighbours: %s", "; ".join(how.reasons))
    return how


def _machine(context: RunContext) -> Machine:
    """What a worker can do, measured where it runs; as many as there may be."""
    search = context.config.neighbours
    device, threads = ("cuda" if search.workers.num_gpus else "cpu"), max(1, int(search.workers.num_cpus))
    machine = run_once(this_machine, device, threads, workers=search.workers)
    if search.memory_gb is not None:
        machine = replace(machine, memory=search.memory_gb * 2**30)
    return machine.times(search.workers.max_workers)


def run(
    context: RunContext,
    samples: Table,
    labels: Table,
    embeddings: Table,
    *,
    ids: Ids,
    labelled: Flags,
    k: int,
    how: Plan,
) -> Searched:
    """The neighbours of all discovery images.

    Args:
        context: the run.
        samples: the samples table.
        labels: the labels table, which says who is in the database.
        embeddings: the vectors.
        ids: of the discovery images, int64 [N], ascending.
        labelled: bool [N], has a label.
        k: neighbours wanted, the image itself included.
        how: the plan.
    """
    who = streamed_layout(embeddings, ids, labelled)

    def compute(folder: StageFolder) -> StageSummary:
        work = _Work(folder, samples, ids[who.queries], k, how)
        work.write_vectors(embeddings, ids, who)
        return work.search()

    decides = {
        "k": k,
        "plan": {"method": how.method, "lists": how.lists, "shards": how.shards},
        "recall": wanted(context).recall,
    }
    decides["workers"] = context.config.neighbours.workers
    table = context.stage("neighbours", decides=decides, inputs=[labels, embeddings], compute=compute)
    parts = [read_neighbours(part, k) for part in table.batches(["neighbour_ids", "neighbour_scores"])]
    found_ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    embedded = np.zeros(len(ids), bool)
    embedded[who.queries] = True
    return Searched(table, from_rows(found_ids, scores, who, ids, table.extra["search"]), embedded)


class _Work:
    """The search of one stage folder, step by step; each step is skipped where an earlier session has done it."""

    def __init__(self, folder: StageFolder, samples: Table, ids: Ids, k: int, how: Plan) -> None:
        self.folder, self.samples, self.ids, self.k, self.how = folder, samples, ids, k, how
        self.config = folder.context.config.neighbours
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
            summary = self.folder.run_parts(self._job(self.folder.uri, SearchWorker, {"task": tasks[0]}), self.ids)
        else:
            places = [storage.join(task.shard, "found") for task in tasks]
            for place, task in zip(places, tasks, strict=True):
                run_parts(self._job(place, SearchWorker, {"task": task}), self.ids, field="neighbours.workers")
            size = self.config.workers.rows_per_part
            arguments = {"queries": self.queries, "shards": places, "rows_per_part": size, "k": self.k}
            summary = self.folder.run_parts(self._job(self.folder.uri, MergeWorker, arguments), self.ids)
        storage.remove(self.folder.path(FILES))
        summary.metrics = {"recall": min(recalls)}
        facts = self.how.facts() | {"recall": min(recalls)} | ({"probed": probed} if probed else {})
        summary.extra = {"search": facts}
        return summary

    def _with_index(self, task: SearchTask) -> tuple[SearchTask, float]:
        """The task with its shard's inverted file made, and the recall that it reaches."""
        known = storage.join(task.shard, "tuned.json")
        if not storage.exists(known):
            probed, recall = run_once(prepare_index, task, self.config.recall, workers=self.config.workers)
            storage.write_bytes(known, json.dumps([probed, recall]).encode())
        probed, recall = json.loads(storage.read_bytes(known))
        return replace(task, probed=probed), recall

    def _job(self, folder: str, worker: type, arguments: dict[str, object]) -> PartJob:
        name = "neighbours" if folder == self.folder.uri else f"neighbours of {folder.rsplit('/', 2)[-2]}"
        return PartJob(
            name, folder, worker, arguments, schemas.NEIGHBOURS, self.samples, self.config.workers, ("image_id",)
        )
