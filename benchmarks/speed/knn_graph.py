"""Nearest neighbours of all points: `faiss.knn`, HNSW, the exact search of fgvr and its inverted file, side by side.

    python -m benchmarks.speed.knn_graph                               # 50,000 × 512, k = 16, two threads: four minutes
    python -m benchmarks.speed.knn_graph --data narrow                    # vectors within a narrow cone, as CLIP's are
    python -m benchmarks.speed.knn_graph --size 12000 --data groups       # strangers, four near-copies of each
    python -m benchmarks.speed.knn_graph --size 4000 --data near-copies --cosine 0.99 --threads 1 --beside-random
    python -m benchmarks.speed.knn_graph --size 1000000 --methods ivf --rounds 1
    python -m benchmarks.speed.knn_graph --device cuda --size 1000000     # exact search against the card's GEMM rate

Needs NumPy, torch and the folder `fgvr`; methods that FAISS is needed for are left out where it is not installed, and
so is `usearch` (an HNSW graph with usearch's own settings; `pip install usearch`, Apache-2.0, which fgvr does not use).
`ivf` is what `neighbours.method ivf` does: where its lists find too few it is exact search, which its facts say.
Times are whole calls: training of the inverted file and the measurement of its recall included. Recall is that of
1,000 queries against products in double precision; a ratio is the median over the rounds of faiss.knn's time through
the method's in the same round.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from fgvr.neighbours import Plan, nearest
from fgvr.neighbours.exact import Product
from fgvr.neighbours.machine import gemm_rate, this_machine
from fgvr.neighbours.plan import Size, Wanted, plan

CHECKED = 1000
PHOTOS_A_CLUSTER = 50
DATA = ["clustered", "narrow", "random", "groups", "near-copies", "crowds", "mixed"]


def make_vectors(count: int, dim: int, data: str, cosine: float = 0.99) -> np.ndarray:
    """L2-normalised fp16 vectors [count, dim].

    `clustered`: around count / 50 centres, each at a distance of its own; `narrow`: the same within a cone. `random`:
    strangers. `groups`: strangers, of each four near-copies. `near-copies`: all around one centre, `crowds` around
    eight, `mixed` a half around one and a half strangers, with the cosine `cosine` to each other.
    """
    random = np.random.default_rng(0)
    if data in {"random", "groups", "near-copies", "crowds", "mixed"}:
        return loose_vectors(random, count, dim, data, cosine)
    centres = random.standard_normal((max(1, count // PHOTOS_A_CLUSTER), dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    if data == "narrow":  # cosines of strangers around 0.7
        centres = 0.6 * centres + centres[:1]
    vectors = np.empty((count, dim), np.float16)
    for at in range(0, count, 65_536):
        rows = vectors[at : at + 65_536]
        spread = random.uniform(0.3, 0.9, (len(rows), 1)).astype(np.float32) / np.sqrt(dim)
        block = centres[random.integers(0, len(centres), len(rows))]
        block += spread * random.standard_normal(block.shape, dtype=np.float32)
        rows[:] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def loose_vectors(random: np.random.Generator, count: int, dim: int, data: str, cosine: float) -> np.ndarray:
    """Strangers, and near-copies of few of them; see `make_vectors`."""
    crowds = {"random": count, "groups": -(-count // 4), "near-copies": 1, "crowds": 8, "mixed": count // 2 + 1}[data]
    crowd = np.arange(count) % crowds if data != "mixed" else np.maximum(0, np.arange(count) - count // 2)
    noise = random.standard_normal((count, dim), dtype=np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    centres = random.standard_normal((crowds, dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.sqrt(cosine) * centres[crowd] + np.sqrt(1 - cosine) * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors[random.permutation(count)], np.float16)


def hnsw(vectors: np.ndarray, k: int, threads: int) -> np.ndarray:
    """Ids int64 [N, k] of usearch's graph, built and searched."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors)), vectors, threads=threads)
    found = index.search(vectors, k, threads=threads)
    return np.asarray(found.keys, np.int64).reshape(len(vectors), -1)


def recall(vectors: np.ndarray, ids: np.ndarray) -> float:
    """Share of the true k nearest among `ids` of some queries, as near ones counting alike."""
    chosen = np.random.default_rng(5).permutation(len(vectors))[:CHECKED]
    queries, k = vectors[chosen].astype(np.float64), ids.shape[1]
    best = np.full((len(chosen), k), -np.inf)
    for at in range(0, len(vectors), 32_768):
        scores = queries @ vectors[at : at + 32_768].astype(np.float64).T
        best = np.sort(np.hstack([best, scores]), axis=1)[:, -k:]
    found = np.einsum("nd,nkd->nk", queries, vectors[ids[chosen]].astype(np.float64))
    return float(((found >= best[:, :1] - 1e-6) & (ids[chosen] >= 0)).mean())


def methods(
    vectors: np.ndarray, k: int, threads: int, device: str, wanted: list[str], *, strangers: np.ndarray | None
) -> dict[str, Callable[[], Any]]:
    """The compared methods: functions that return ids int64 [N, k]; also exact search of `strangers`, if given."""
    product = this_machine(device, threads).product if device == "cpu" else Product("cuda", "float16")
    exact_plan = Plan("exact", product)
    found: dict[str, Callable[[], Any]] = {
        "exact": lambda: nearest(vectors, vectors, k, threads=threads, how=exact_plan),
    }
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(threads)
        single = vectors.astype(np.float32)
        if device == "cpu":
            found["faiss.knn"] = lambda: faiss.knn(single, single, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
            size = Size(len(vectors), len(vectors), vectors.shape[1])
            lists = plan(size, this_machine(device, threads), Wanted("ivf"))
            found["ivf"] = lambda: nearest(vectors, vectors, k, threads=threads, how=lists)
        elif hasattr(faiss, "StandardGpuResources"):
            resources = faiss.StandardGpuResources()
            found["faiss-gpu flat"] = lambda: faiss.knn_gpu(
                resources, vectors, vectors, k, metric=faiss.METRIC_INNER_PRODUCT
            )[1]
    if importlib.util.find_spec("usearch") is not None and device == "cpu":
        found["usearch"] = lambda: hnsw(vectors, k, threads)
    if strangers is not None:
        found["exact, random vectors"] = lambda: nearest(strangers, strangers, k, threads=threads, how=exact_plan)
        wanted = [*wanted, "exact, random vectors"]
    return {name: found[name] for name in sorted(found, key=lambda n: not n.startswith("faiss")) if name in wanted}


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--size", type=int, default=50_000, help="vectors")
    parser.add_argument("--dim", type=int, default=512, help="of a vector")
    parser.add_argument("--k", type=int, default=16, help="neighbours, the vector itself included")
    parser.add_argument("--threads", type=int, default=2, help="cores")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which all methods take turns")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where exact search computes")
    parser.add_argument("--data", choices=DATA, default="clustered", help="how vectors lie")
    parser.add_argument("--cosine", type=float, default=0.99, help="of near-copies to each other")
    parser.add_argument("--beside-random", action="store_true", help="exact search of as many random vectors, too")
    parser.add_argument(
        "--methods", nargs="+", default=["faiss.knn", "faiss-gpu flat", "exact", "ivf", "usearch"], help="compared"
    )
    options = parser.parse_args()
    with harness.reporting(options) as report:
        compare(options, report)


def compare(options: argparse.Namespace, report: harness.Report) -> None:
    """All methods on one set of vectors."""
    torch.set_num_threads(options.threads)
    vectors = make_vectors(options.size, options.dim, options.data, options.cosine)
    strangers = make_vectors(options.size, options.dim, "random") if options.beside_random else None
    if options.device == "cpu":
        machine = this_machine("cpu", options.threads)
        chosen = plan(Size(options.size, options.size, options.dim), machine)
        report.say("\n".join(chosen.reasons))
    else:
        report.say(
            f"{torch.cuda.get_device_name()} {gemm_rate('cuda', 'float16', 50) / 1e12:.0f} TFLOP/s (fp16 product)"
        )
    compared = methods(vectors, options.k, options.threads, options.device, options.methods, strangers=strangers)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    recalls: dict[str, float] = {}
    facts: dict[str, dict[str, Any]] = {}
    for number in range(options.rounds):
        for name, run in compared.items():
            if options.device == "cuda" and number == 0:
                run()  # kernels are loaded and chosen in the first call
            start = time.perf_counter()
            ids = run()
            seconds[name].append(time.perf_counter() - start)
            if not isinstance(ids, np.ndarray):
                facts[name], ids = ids.facts, ids.ids
            if number == 0:
                searched = strangers if strangers is not None and name.endswith("random vectors") else vectors
                recalls[name] = recall(searched, ids)
            print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    operations = 2.0 * options.size**2 * options.dim
    lines = []
    for name, times in seconds.items():
        base = next((seconds[other] for other in seconds if other.startswith("faiss")), None)
        ratio = harness.paired_ratio(base, times)[0] if base else float("nan")
        rate = operations / min(times) / 1e12
        cells = (f"{statistics.median(times):.1f}", f"{recalls[name]:.4f}", f"{rate:.2f}", f"{ratio:.2f}")
        lines.append(harness.Line(name, cells))
    title = f"{options.size:,} × {options.dim}, k = {options.k}, {options.data}"
    report.say("\n" + harness.markdown(title, ["seconds", "recall", "TFLOP/s", "ratio"], lines))
    for name, known in facts.items():
        report.say(f"{name}: { ({key: known[key] for key in known if key != 'reasons'}) }")


if __name__ == "__main__":
    main()
