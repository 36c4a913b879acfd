"""What decisions of people bring: accuracy against their number, in the order of the review page's queues or at random.

    python -m benchmarks.quality.decisions                         # birds and the field guide, three seeds: 20 minutes
    python -m benchmarks.quality.decisions --set birds --seeds 0

Through the pipeline's own stages: decisions are appended to the log of the run, as the review page does, and the run is
started again; only what they touch is computed. The person is simulated and never wrong: a photo's decision is its
class. The model is the prototypes of whitened vectors (`label_prototypes`), tested on photos that nobody decided.

- birds: `$FGVR_DATA/birds`, 1,000 of 2,999 photos with names by a real labeller (a classifier of 965 birds), tested on
  2,903; EfficientNet-Lite0's ImageNet vectors.
- field guide: 360 drawings named by the demo's tiny MLLM, tested on 720 others; the demo's CLIP.

Queues are made anew after each step, from what the run then says: `likely wrong` is the order of the table `issues`;
`most useful` is (1 − confidence) · log(1 + photos of the name), of all photos to learn from, whether or not they have a
label; `random` is drawn among the labelled photos, `random, all` among all. Differences are paired by seed with
`random` at the same number of decisions. `half` is the first number of decisions at which a queue is at least as
accurate as `random` after twice as many, in the mean over seeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import harness
from benchmarks.papers.data_sets import ending_in_words
from benchmarks.quality.birds import tree_of as birds_tree
from benchmarks.quality.photo_tables import find_weights
from cluster.console import show_progress
from cluster.run import open_run
from cluster.session import ray_session
from cluster.stage import RunContext
from fgvr.arrays import Floats, Ids
from fgvr.config import build
from fgvr.config.load import read_preset
from fgvr.config.tree import merge
from fgvr.evaluation.images import strings
from fgvr.models.from_features import scores_of, texts_of
from fgvr.names.spelling import fold_name
from fgvr.review.decisions import Decision, Kind
from fgvr.review.log import FOLDER, DecisionLog
from fgvr.sources.sampling import split_ids
from pipelines.command import PRESETS
from pipelines.run_tables import Run
from pipelines.student_images import classes_of

QUEUES: Final = ("random", "random, all", "likely wrong", "most useful")
STEPS: Final = {"birds": (0, 50, 100, 200, 400, 800), "field guide": (0, 18, 36, 72, 144, 288)}
METHOD: Final = "label_prototypes"


@dataclass(frozen=True)
class State:
    """What a run says after some decisions.

    Attributes:
        top1: of the prototypes on the test photos, in percent.
        labels: share of right names among the labelled photos, in percent.
        order: ids of the photos of each queue, the first to be decided first.
    """

    top1: float
    labels: float
    order: Mapping[str, Ids]


@dataclass(frozen=True)
class People:
    """A run and what its photos show.

    Attributes:
        run: the folder and the tracker.
        tree: its config at one seed.
        seed: of the random queues.
    """

    run: RunContext
    tree: Mapping[str, Any]
    seed: int

    def start(self) -> Run:
        """A session of the run."""
        return Run(RunContext(build(dict(self.tree)), self.run.folder, self.run.tracker))

    def forget(self) -> None:
        """Remove all decisions."""
        shutil.rmtree(Path(self.run.folder, FOLDER), ignore_errors=True)

    def state(self) -> State:
        """Start the run with all decisions so far, and look at what it says."""
        run = self.start()
        config, samples = run.config, run.table("samples")
        labels = run.table("labels").read(["image_id", "label"])
        learned = split_ids(samples, [config.label.images.drawn_from])
        names, confidence = self._named(run, learned)
        tested = split_ids(samples, [config.evaluate.split])
        said, _ = self._named(run, tested)
        labelled = labels["image_id"].to_numpy()
        random = np.random.default_rng(self.seed)
        sizes = dict(zip(*np.unique(names, return_counts=True), strict=True))
        useful = (1 - confidence) * np.log1p([sizes[name] for name in names])
        issues = run.table("issues").read(["image_id", "score"])
        score = np.nan_to_num(issues["score"].to_numpy().astype(np.float64), nan=-1.0)
        return State(
            top1=100 * float((said == self._true(run, tested)).mean()),
            labels=100 * float((_folded(labels["label"].to_pylist()) == self._true(run, labelled)).mean()),
            order={
                "random": random.permutation(np.sort(labelled)),
                "random, all": random.permutation(learned),
                "likely wrong": issues["image_id"].to_numpy()[np.argsort(-score, kind="stable")],
                "most useful": learned[np.argsort(-useful, kind="stable")],
            },
        )

    def decide(self, ids: Ids) -> None:
        """Append what a person says of these photos."""
        samples = self.start().table("samples")
        rows = samples.take(ids, ["image_id", "uri", "class_name"]).to_pylist()
        DecisionLog(self.run.folder).append(
            [
                Decision(
                    Kind.NAME,
                    "simulated",
                    image_id=row["image_id"],
                    uri=row["uri"],
                    after=row["class_name"].replace("_", " "),
                )
                for row in rows
            ]
        )

    def _true(self, run: Run, ids: Ids) -> np.ndarray:
        names: Sequence[str] = strings(run.table("samples").take(ids, ["class_name"])["class_name"]).tolist()
        return _folded(names)

    def _named(self, run: Run, ids: Ids) -> tuple[np.ndarray, Floats]:
        """The prototypes' names of photos, folded, and their probabilities."""
        from fgvr.clip.vectors import read_vectors

        run.table(METHOD)
        classes = classes_of(run, METHOD)
        vectors, _ = read_vectors(run.table("embeddings"), ids)
        scores = scores_of(classes, vectors, texts_of(classes, run.table("samples"), ids), slice(0, len(ids)))
        return _folded(classes.labels)[scores.argmax(axis=1)], scores.max(axis=1)


def _folded(names: Sequence[str | None]) -> np.ndarray:
    known = {name: fold_name(name.replace("_", " ")) for name in set(names) if name}
    return np.array([known[name] if name else "" for name in names], dtype=object)


def curve(people: People, queue: str, steps: Sequence[int]) -> list[State]:
    """The states after each number of decisions, taken in the order of a queue that is made anew at each step."""
    people.forget()
    states, decided = [people.state()], np.zeros(0, np.int64)
    for count in steps[1:]:
        left = states[-1].order[queue]
        left = left[~np.isin(left, decided)][: count - len(decided)]
        people.decide(left)
        decided = np.concatenate([decided, left])
        states.append(people.state())
    return states


def half(queue: Sequence[float], random: Sequence[float], steps: Sequence[int]) -> int | None:
    """The first number of decisions at which a queue is as accurate as random decisions after the next step."""
    pairs = zip(steps[1:], queue[1:], random[2:], strict=False)
    return next((count for count, ours, theirs in pairs if ours >= theirs), None)


def table(title: str, states: Mapping[str, list[list[State]]], steps: Sequence[int], what: str) -> str:
    """A row per queue, a column per number of decisions: the mean over seeds, and the difference from `random`."""
    values = {queue: np.array([[getattr(s, what) for s in one] for one in each]) for queue, each in states.items()}
    lines = []
    for queue, own in values.items():
        cells = []
        for place in range(len(steps)):
            gap = own[:, place] - values["random"][:, place]
            low, high = harness.bootstrap(gap)
            more = "" if queue == "random" or not place else f" ({gap.mean():+.1f} [{low:+.1f}, {high:+.1f}])"
            cells.append(f"{own[:, place].mean():.1f}{more}")
        found = half(own.mean(axis=0).tolist(), values["random"].mean(axis=0).tolist(), steps)
        cells.append("–" if queue == "random" or found is None else f"{found}")
        lines.append(harness.Line(queue, tuple(cells)))
    return harness.markdown(title, [*(f"{count}" for count in steps), "half"], lines)


def trees(weights: Path | None) -> dict[str, dict[str, Any]]:
    """The config of each data set."""
    small = {"label": {"images": {"max_images": 1_000}}, "embed": {"images": "all"}}
    guide = {
        "ingest": {"source": {"train_per_class": 60}},
        "cluster": {"num_cpus": 2},
        "embed": {"images": "all"},
    }
    return {
        "birds": merge(birds_tree(find_weights(weights)), small),
        "field guide": merge(dict(read_preset("demo", PRESETS)), guide),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(3))
    parser.add_argument("--set", nargs="+", choices=STEPS, default=list(STEPS), help="data sets; default: all")
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/decisions"), help="folder of the runs; default: %(default)s"
    )
    args = parser.parse_args(arguments)
    show_progress()
    out = args.out.expanduser().absolute()
    with ending_in_words(), harness.reporting(args) as report:
        for name in args.set:
            place = {"name": name.replace(" ", "_"), "folder": str(out)}
            tree = merge(trees(args.weights)[name], {"run": place, "tracking": {"log_models": False}})
            steps = STEPS[name]
            found: dict[str, list[list[State]]] = {queue: [] for queue in QUEUES}
            with ray_session(build(tree).cluster), open_run(build(tree)) as context:
                for seed in args.seeds:
                    more: dict[str, Any] = {"label": {"images": {"seed": seed}}}
                    if name == "field guide":
                        more["ingest"] = {"source": {"seed": seed}}
                    people = People(context, merge(tree, more), seed)
                    for queue in QUEUES:
                        found[queue].append(curve(people, queue, steps))
                    people.forget()
            for what, title in (("top1", "top-1 on photos that nobody decided"), ("labels", "labels that are right")):
                report.say(table(f"{name}: {title}, after so many decisions", found, steps, what))
            report.facts[name] = {
                queue: [[[s.top1, s.labels] for s in one] for one in each] for queue, each in found.items()
            }


if __name__ == "__main__":
    main()
