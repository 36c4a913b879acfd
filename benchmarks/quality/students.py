"""What a student learns from photos that nobody was asked about: the drawn field guide, through the pipeline's stages.

    python -m benchmarks.quality.students --seeds 0 1 2                # an hour on two cores
    python -m benchmarks.quality.students --seeds 0 --tables pool --per-class 125

360 drawings are named by the tiny MLLM, prototypes of these names name the pool, as in the demo, or another method with
`--target`; students learn from that, and no human label is used anywhere. A seed is another field guide and another
student. Tables:

- `pool`: how many images the pool has;
- `counted`: how much each counts, and one name or several;
- `aspects`: of how many images aspects are known, and α;
- `semi`: only names that MLLM, prototypes and neighbours agree on, alone and with pseudo-labels of all other images.

All students take the same number of steps, so that a larger pool is not trained for longer. Differences are paired by
seed with the student of the whole pool that counts all alike; in brackets the 95% interval of their mean, resampled
over seeds. Nothing is chosen by these numbers but the defaults that docs/students.md names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from benchmarks.papers.data_sets import ending_in_words
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import open_data_set
from benchmarks.quality.photo_tables import gap_table
from cluster.console import show_progress
from cluster.session import ray_session
from fgvr.config import Config, build
from fgvr.config.load import read_preset
from fgvr.config.tree import merge
from fgvr.demo.species import SPECIES
from pipelines.command import PRESETS

METRICS: Final = ("sacc", "cacc", "top1")
BASE: Final = "student, the whole pool"
TABLES: Final = ("pool", "counted", "aspects", "semi")
TARGETS: Final = {"label_prototypes": "prototypes", "near": "NeaR"}
BATCH: Final = 32
"""Images per step, as in the demo."""


def _student(label: str, method: str = "base", **makd: Any) -> Row:
    aspects = makd.pop("aspects", None)
    return Row(label, method, {"makd": makd, **({} if aspects is None else {"aspects": {"max_images": aspects}})})


def rows_of(table: str, pool: int, steps: int, target: str) -> list[Row]:
    """The rows of a table, whose students learn from at most `pool` images, named by `target`, in `steps` steps."""

    def epochs(images: int) -> int:
        return max(1, round(steps * BATCH / (0.9 * images)))  # a tenth is held out

    def learns(label: str, images: int = pool, method: str = "base", **makd: Any) -> Row:
        return _student(label, method, pool=images, epochs=epochs(images), **makd)

    whole, teacher = learns(BASE), Row(f"{TARGETS[target]}, whose names they learn", target)
    asked = len(SPECIES) * 10
    if table == "pool":
        sizes = [size for size in (1_000, 3_000, 9_000, 30_000) if size < pool]
        return [
            Row("MLLM, each image", "mllm"),
            teacher,
            *(learns(f"student, {size:,} images", size, aspects=min(asked, size)) for size in sizes),
            whole,
        ]
    if table == "counted":
        return [
            teacher,
            whole,
            learns("confidence", target_weights="confidence"),
            learns("agreement", target_weights="agreement"),
            learns("issues", target_weights="issues"),
            learns("soft, T = 1", target_temperature=1),
            learns("soft, T = 2", target_temperature=2),
        ]
    if table == "semi":
        return [
            teacher,
            whole,
            learns("trusted names alone", trainer="semi", semi={"weight": 0}),
            learns("semi", trainer="semi"),
            learns("semi, weight 5", trainer="semi", semi={"weight": 5}),
            learns("semi, thresholds per class", trainer="semi", semi={"per_class": True}),
        ]
    shares = (0.03, 0.1, 0.5, 1.0)
    means: dict[str, Any] = {"aspects": round(0.1 * pool), "alpha": 4.0, "unasked_aspects": "class_mean"}
    return [
        whole,
        learns("aspects of 10%, class means elsewhere, alpha 4", method="makd", **means),
        *(
            learns(f"aspects of {share:.0%}, alpha {alpha:g}", method="makd", aspects=round(share * pool), alpha=alpha)
            for share in shares
            for alpha in (0.5, 4.0)
        ),
    ]


def tree_of(per_class: int, target: str) -> dict[str, Any]:
    """The demo, with `per_class` drawings of each species to learn from, whose names `target` gives."""
    changes: dict[str, Any] = {
        "ingest": {"source": {"train_per_class": per_class}},
        "makd": {"target": target, "images": "pool"},
        "aspects": {"max_images": len(SPECIES) * 10},
        "cluster": {"num_cpus": 2},
    }
    return merge(dict(read_preset("demo", PRESETS)), changes)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only the rows that have one of these in their label")
    parser.add_argument("--per-class", type=int, default=250, help="drawings of each species to learn from")
    parser.add_argument("--target", choices=TARGETS, default="label_prototypes", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=4_000, help="steps of each student")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/students"), help="folder of the run; default: %(default)s"
    )
    args = parser.parse_args(arguments)
    show_progress()
    out, tree = args.out.expanduser().absolute(), tree_of(args.per_class, args.target)
    with ending_in_words(), harness.reporting(args) as report:
        config: Config = build(tree)
        with ray_session(config.cluster), open_data_set(tree, "students", str(out)) as runs:
            for table in args.tables:
                rows: Sequence[Row] = rows_of(table, args.per_class * len(SPECIES), args.steps, args.target)
                if args.only:
                    rows = [row for row in rows if row.label == BASE or any(text in row.label for text in args.only)]
                each = [{row.label: runs.measure(row, seed) for row in rows} for seed in args.seeds]
                report.facts[table] = [{label: one.values for label, one in cell.items()} for cell in each]
                report.say(
                    gap_table(f"{table}, a pool of {args.per_class * len(SPECIES):,}", METRICS, rows, each, BASE)
                )


if __name__ == "__main__":
    main()
