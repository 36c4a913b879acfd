"""Choosing whom to ask among many images, and spreading the answers: seconds and memory of each step.

    python -m benchmarks.speed.selection         # a million vectors, 1,000 questions, two threads
    python -m benchmarks.speed.selection --images 1000000 --questions 3000 --device cuda

Clustered fp16 vectors of 512 numbers in a mapped file, as the stage `selected` has them. Each step runs in a process of
its own, whose peak of memory that is not the file's is printed beside what it took before the step. `propagation`
spreads one answer per question over a graph of ten neighbours within groups of a thousand images, with a tenth as many
names as questions; finding real neighbours is benchmarks.speed.knn_graph's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.speed.knn_graph import make_vectors
from cluster.heartbeat import beating

STEPS = ("whitening", "applied", "clusters", "medoids", "typical", "coverage", "propagation")
NEIGHBOURS, GROUP = 10, 1000


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result; seconds, CPU seconds of all threads, and MiB: before, and the most during it."""
    before = harness.anonymous_mib()
    most = [before]
    started, busy = time.perf_counter(), time.process_time()
    with beating(lambda: most.append(harness.anonymous_mib()), 0.02):
        result = work()
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return result, {"seconds": seconds, "cpu_seconds": busy, "before_mib": before, "most_mib": max(most)}


def step(name: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """One step on the files of the earlier ones, in this process."""
    from fgvr.neighbours.search_worker import VectorFile, write
    from fgvr.selection import choose, coverage, kmeans
    from fgvr.selection.task import BLOCK
    from fgvr.selection.whitening import Whitening, fit_whitening

    where = {"threads": args.threads, "device": args.device}
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if name == "propagation":
        return measured(lambda: spread(len(vectors), args.questions))[1]
    if name == "whitening":
        whitening, facts = measured(lambda: fit_whitening(vectors, anchors=args.anchors, **where))
        (folder / "whitening.npz").write_bytes(whitening.to_bytes())
        return facts
    if name == "applied":
        whitening, ids = Whitening.from_bytes((folder / "whitening.npz").read_bytes()), np.arange(len(vectors))
        starts = range(0, len(ids), BLOCK)
        blocks = ((ids[at : at + BLOCK], whitening.apply(vectors[at : at + BLOCK])) for at in starts)
        return measured(lambda: write(str(folder / "whitened"), ids, vectors.shape[1], blocks))[1]
    whitened = VectorFile.open(str(folder / "whitened")).vectors
    if name == "clusters":
        return measured(lambda: kmeans.spherical_kmeans(whitened, args.questions, **where))[1]
    space = choose.Space(vectors, whitened)
    if name in {"medoids", "typical"}:
        chosen, facts = measured(lambda: choose.choose(space, args.questions, name, **where))  # type: ignore[arg-type]
        np.save(folder / "rows.npy", chosen.rows)
        return facts
    return measured(lambda: coverage.reach(whitened, np.load(folder / "rows.npy"), **where))[1]


def spread(images: int, questions: int) -> None:
    """Label propagation over a graph of made-up neighbours."""
    from fgvr.arrays import NONE
    from fgvr.heads.propagation import graph, propagate

    rng = np.random.default_rng(0)
    starts = np.arange(images) // GROUP * GROUP
    size = np.minimum(GROUP, images - starts)
    near = starts[:, None] + rng.integers(0, size[:, None], (images, NEIGHBOURS))
    similarities = rng.uniform(0.5, 1, near.shape).astype(np.float32)
    names = max(2, questions // 10)
    labels = np.full(images, NONE, np.int64)
    labels[rng.choice(images, questions, replace=False)] = rng.integers(0, names, questions)
    propagate(graph(near, similarities), labels, names)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--anchors", type=int, default=20_000, help="of the whitening; default: %(default)s")
    parser.add_argument("--dim", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default: %(default)s")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS, help="default: all")
    parser.add_argument("--folder", type=Path, help="keep the files there, for further steps; default: a temporary one")
    parser.add_argument("--step", choices=STEPS, help=harness.HIDDEN)
    args = parser.parse_args()
    if args.step is not None:
        harness.answer(step(args.step, args.folder, args))
        return
    with tempfile.TemporaryDirectory() as temporary, harness.reporting(args) as report:
        folder = Path(temporary) if args.folder is None else args.folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "vectors.npy").exists():
            np.save(folder / "vectors.npy", make_vectors(args.images, args.dim, "clustered"))
        report.say(
            f"{args.images:,} vectors of {args.dim}, {args.questions:,} questions, {args.threads} × {args.device}"
        )
        heads = {
            "step": "<12",
            "seconds": ">10.1f",
            "CPU s": ">8.1f",
            "MiB before": ">12,.0f",
            "MiB at most": ">13,.0f",
        }
        table = report.table(heads)
        places = ("--folder", folder, "--threads", args.threads, "--device", args.device)
        same = ("--anchors", args.anchors, "--questions", args.questions, *places)
        for name in args.steps:
            facts = harness.again("--step", name, *same)
            table.row(name, *(facts[key] for key in ("seconds", "cpu_seconds", "before_mib", "most_mib")))


if __name__ == "__main__":
    main()
