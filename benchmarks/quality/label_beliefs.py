"""Whom to believe, on real CLIP vectors with real answers: label issues, the guard, the posterior with a text prior.

    python -m benchmarks.quality.label_beliefs                   # all three tables: some minutes on one core
    python -m benchmarks.quality.label_beliefs --tables issues   # or guard, posterior

Needs the folder `real-clip` of $FGVR_DATA or ../shared/data: CLIP ViT-B/32 vectors of the test photos of Flowers, DTD
and Caltech-101, GPT-4V's five ranked names for each, and the text vectors of LVIS names; without it nothing is
measured, and that is said. Truth is used to print the tables and to plant mistakes, never by what is measured.

- issues: area under the ROC curve of the score for "the own name is wrong", 10·C random photos.
- guard: of the cells where candidate sets change the accuracy of a prototype head on the other photos by at least a
  point, how many it decides and how often rightly.
- posterior: accuracy on the other photos of the Caltech classes that are LVIS names; planted mistakes are other LVIS
  names, so that there are more names than classes: any (`uniform`), or mostly the class's nearest name (`systematic`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks import harness
from benchmarks.quality import real_clip
from fgvr.arrays import NONE, Floats, Ids, Labels
from fgvr.beliefs.guard import Comparison, compared
from fgvr.beliefs.label_issues import label_issues
from fgvr.beliefs.names_near import name_sums
from fgvr.beliefs.posterior import new_image_scores, text_posterior
from fgvr.candidates.methods import candidate_sets, estimate_of, held_out_sets, most_neighbours
from fgvr.candidates.sets import CandidateSets, single_sets
from fgvr.config import Candidates
from fgvr.neighbours.discovery import labelled_neighbours
from fgvr.selection.whitening import fit_whitening

TEXTS = "lvis_names_text"
TABLES = ("issues", "guard", "posterior")
RIGHT = 0.65  # share of right labels where mistakes are planted
SYSTEMATIC = 0.7  # of the mistakes go to the nearest class
SHOTS = (3, 10)
SCALE = 100.0  # CLIP's logit scale
STEPS = 100


@dataclass(frozen=True)
class Photos:
    """A set of photos, shuffled.

    Attributes:
        vectors: CLIP vectors of length 1, float32 [N, d].
        white: the same whitened, of all photos.
        truth: true name, int32 [N], numbers in `names`.
        answers: what GPT-4V said, best first, int32 [N, 5]; `NONE` in unused positions.
        names: all names.
        classes: C, the number of true classes.
    """

    vectors: Floats
    white: Floats
    truth: Labels
    answers: Labels
    names: list[str]
    classes: int

    @classmethod
    def read(cls, name: str) -> Photos:
        """A data set of `real_clip`, in one order for all seeds."""
        found = real_clip.read(name, seed=0)
        vectors = unit(found.vectors.astype(np.float32))
        truth, answers = found.truth.astype(np.int32), found.answers.astype(np.int32)
        return cls(vectors, fit_whitening(vectors).apply(vectors), truth, answers, found.names, found.classes)

    def asked(self, per_class: int, seed: int) -> Ids:
        """`per_class` · C random photos that got an answer, fewer where there are fewer."""
        random = np.random.default_rng(seed)
        rows = random.choice(len(self.truth), min(len(self.truth), per_class * self.classes), replace=False)
        return np.asarray(rows[self.answers[rows, 0] != NONE], dtype=np.int64)


def unit(rows: Floats) -> Floats:
    """Rows at length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def area(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve."""
    ranks, positives = rankdata(scores), int(wrong.sum())
    return float((ranks[wrong].sum() - positives * (positives + 1) / 2) / (positives * (len(wrong) - positives)))


def nearest_others(vectors: Floats, k: int) -> tuple[Ids, Floats]:
    """The k nearest other photos of each, by all cosines."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    ids = np.argsort(-cosines, axis=1)[:, :k]
    return ids, np.take_along_axis(cosines, ids, axis=1)


# issues


def issues(data: Photos, seed: int) -> list[float]:
    """Share of wrong own names; area under the curve, with the graph of all photos and of the asked ones alone; share
    wrong among the worst tenth.
    """
    asked = data.asked(10, seed)
    own = np.full(len(data.truth), NONE, np.int32)
    own[asked] = data.answers[asked, 0]
    wrong = own[asked] != data.truth[asked]
    everywhere = label_issues(own, data.white, len(data.names), *nearest_others(data.white, 10), listed=data.answers)
    near = nearest_others(data.white[asked], 10)
    alone = label_issues(own[asked], data.white[asked], len(data.names), *near, listed=data.answers[asked])
    scores = everywhere.score[asked]
    worst = np.argsort(-scores)[: len(asked) // 10]
    return [wrong.mean(), area(scores, wrong), area(alone.score, wrong), wrong[worst].mean()]


# guard


@dataclass(frozen=True)
class Cell:
    """A verdict, and what the sets really change on the other photos, in points."""

    found: Comparison
    gain: float

    @property
    def right(self) -> bool | None:
        """Whether the verdict has the right sign; None: it decides nothing."""
        helps = self.found.verdict.helps
        return None if helps is None else helps == (self.gain > 0)


METHODS = {
    "kNN-3": Candidates(),
    "kNN-10": Candidates(k=10, weights="multiplicity"),
    "adaptive": Candidates(method="adaptive"),
}


def head_accuracy(sets: CandidateSets, own: Labels, white: Floats, others: Floats, truth: Labels) -> float:
    """Of a prototype head, which knows the names that were given first."""
    names = int(max(own.max(), sets.label_ids.max())) + 1
    sums = name_sums(white, sets.label_ids, sets.weights.astype(np.float64), names)
    given = np.unique(own)
    directions = sums[given] / (np.linalg.norm(sums[given], axis=1, keepdims=True) + 0.3)
    return float((given[(others @ directions.T).argmax(axis=1)] == truth).mean())


def cell(data: Photos, asked: Ids, own: Labels, config: Candidates) -> Cell:
    """The guard on one sample of photos."""
    there, vectors = np.ones(len(asked), bool), data.vectors[asked]
    found = labelled_neighbours(vectors, there, there, max(11, most_neighbours(config)))
    names, mine = single_sets(own), len(data.names)
    agreement = estimate_of(found, own, config.k)
    sets = candidate_sets(config, found, names, embedded=there, space=mine, agreement=agreement)
    white = data.white[asked]
    verdict = compared(own, white, mine, lambda known: held_out_sets(config, found, names, known, space=mine))
    others = np.setdiff1d(np.arange(len(data.truth)), asked)
    far, truth = data.white[others], data.truth[others]
    ours, theirs = (head_accuracy(each, own, white, far, truth) for each in (sets, names))
    return Cell(verdict, 100 * (ours - theirs))


def planted(truth: Labels, vectors: Floats, kind: str, classes: int, seed: int) -> Labels:
    """Labels of which `RIGHT` are right; `systematic`: most mistakes go to the class whose mean is nearest."""
    random = np.random.default_rng(seed)
    shift = random.integers(1, classes, len(truth))
    wrong = (truth + shift) % classes
    if kind == "systematic":
        means = unit(np.array([vectors[truth == name].mean(axis=0) for name in range(classes)]))
        cosines = means @ means.T
        np.fill_diagonal(cosines, -2)
        wrong = np.where(random.random(len(truth)) < SYSTEMATIC, cosines.argmax(axis=1)[truth], wrong)
    return np.where(random.random(len(truth)) < RIGHT, truth, wrong).astype(np.int32)


def cells(data: Photos, seeds: Sequence[int]) -> Iterator[tuple[str, str, Cell]]:
    """(kind of answers, method, cell)."""
    for seed in seeds:
        for per_class in (3, 5, 10):
            asked = data.asked(per_class, seed)
            kinds = {"real": data.answers[asked, 0]}
            for kind in ("uniform", "systematic"):
                kinds[kind] = planted(data.truth, data.vectors, kind, data.classes, seed)[asked]
            for kind, own in kinds.items():
                for method, config in METHODS.items():
                    yield kind, method, cell(data, asked, own, config)


# posterior


@dataclass(frozen=True)
class Texts:
    """The Caltech photos whose class is an LVIS name.

    Attributes:
        photos: these photos; truth and names are numbers of LVIS names.
        texts: the text vectors of all LVIS names, of length 1, float32 [1203, d].
    """

    photos: Photos
    texts: Floats

    @classmethod
    def read(cls) -> Texts:
        """Join the two files by name."""
        data = Photos.read(real_clip.SETS["Caltech"])
        content = np.load(real_clip.FOLDER / f"{TEXTS}.npz", allow_pickle=False)
        known: dict[str, int] = {}
        for number, words in enumerate(content["synonyms"].tolist()):
            for word in words.split("|"):
                known.setdefault(word.split("_(")[0].replace("_", " "), number)
        lvis = np.array([known.get(name, NONE) for name in data.names[: data.classes]], np.int32)
        rows = np.flatnonzero(lvis[data.truth] != NONE)
        truth, vectors = lvis[data.truth[rows]], data.vectors[rows]
        white = fit_whitening(vectors).apply(vectors)
        photos = Photos(vectors, white, truth, truth[:, None], content["names"].tolist(), len(np.unique(truth)))
        return cls(photos, unit(content["vectors"].astype(np.float32)))

    def named(self, rows: Ids, kind: str, seed: int) -> Labels:
        """Own labels of some photos with planted mistakes, int32 [n]."""
        random, truth = np.random.default_rng(seed), self.photos.truth[rows]
        wrong = (truth + random.integers(1, len(self.texts), len(rows))) % len(self.texts)
        if kind == "systematic":
            cosines = self.texts @ self.texts.T
            np.fill_diagonal(cosines, -2)
            wrong = np.where(random.random(len(rows)) < SYSTEMATIC, cosines.argmax(axis=1)[truth], wrong)
        return np.where(random.random(len(rows)) < RIGHT, truth, wrong).astype(np.int32)


def prompts(sets: CandidateSets, vectors: Floats, texts: Floats, *, loss: str) -> Floats:
    """Class vectors learned from text vectors on by Adam, logits 100 cos: PRODEN, or generalised cross entropy."""
    import torch

    torch.manual_seed(0)
    images, classes = torch.from_numpy(vectors), torch.from_numpy(texts.copy()).requires_grad_()
    weights = torch.zeros(len(vectors), len(texts))
    rows, places = np.nonzero(sets.label_ids != NONE)
    weights[rows, sets.label_ids[rows, places]] = torch.from_numpy(sets.weights[rows, places])
    inside = weights > 0
    optimiser = torch.optim.Adam([classes], lr=1e-3)
    for _ in range(STEPS):
        logits = SCALE * images @ torch.nn.functional.normalize(classes, dim=1).T
        logs = logits.log_softmax(dim=1)
        if loss == "proden":
            value = -(weights * logs).sum(dim=1).mean()
            found = logs.detach().exp() * inside
            weights = found / found.sum(dim=1, keepdim=True).clamp_min(1e-12)
        else:
            value = ((1 - (logs.exp() * weights).sum(dim=1).clamp_min(1e-12) ** 0.7) / 0.7).mean()
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return unit(classes.detach().numpy())


def posteriors(data: Texts, kind: str, per_class: int, seed: int) -> dict[str, float]:
    """Accuracy of each way on the other photos, in percent; and the own labels before and after."""
    photos, random = data.photos, np.random.default_rng(seed)
    asked = np.concatenate(
        [random.permutation(np.flatnonzero(photos.truth == name))[:per_class] for name in np.unique(photos.truth)]
    )
    others = np.setdiff1d(np.arange(len(photos.truth)), asked)
    given, places = np.unique(data.named(asked, kind, seed), return_inverse=True)
    own, texts = np.asarray(places, dtype=np.int32), data.texts[given]
    vectors, white, there = photos.vectors[asked], photos.white[asked], np.ones(len(asked), bool)
    near = labelled_neighbours(vectors, there, there, 11)
    names = single_sets(own)
    three = candidate_sets(
        Candidates(), near, names, embedded=there, space=len(texts), agreement=estimate_of(near, own, 3)
    )
    mean = photos.vectors.mean(axis=0)
    found = text_posterior(own, vectors, texts, white, scale=SCALE)
    far, truth = photos.vectors[others], photos.truth[others]
    gce = prompts(names, vectors, texts, loss="gce")
    scores = {
        "zero-shot": far @ texts.T,
        "zero-shot, centred": (far - mean) @ texts.T,
        "own label, GCE": far @ gce.T,
        "½ own label + ½ zero-shot": far @ unit(gce + texts).T,
        "kNN-3, PRODEN": far @ prompts(three, vectors, texts, loss="proden").T,
        "posterior's sets, PRODEN": far @ prompts(found.sets(), vectors, texts, loss="proden").T,
        "posterior": new_image_scores(found, white, far, photos.white[others], texts, mean=mean, scale=SCALE),
    }
    result = {name: 100 * float((given[each.argmax(axis=1)] == truth).mean()) for name, each in scores.items()}
    result["labels right: own"] = 100 * float((given[own] == photos.truth[asked]).mean())
    result["labels right: posterior"] = 100 * float((given[found.sets().first] == photos.truth[asked]).mean())
    result["names given"] = float(len(given))
    result["q by EM"] = 100 * float(found.label_accuracy or 0.0)
    return result


def show_issues(seeds: Sequence[int], report: harness.Report) -> None:
    """The table of label issues."""
    lines = []
    for title, name in real_clip.SETS.items():
        data = Photos.read(name)
        columns = list(zip(*(issues(data, seed) for seed in seeds), strict=True))
        lines.append(harness.Line(title, tuple(harness.mean_and_deviation(column, 3) for column in columns)))
    heads = ["wrong", "AUROC", "AUROC, asked photos alone", "wrong in the worst tenth"]
    report.say("\n" + harness.markdown("label issues, 10·C random photos", heads, lines))


def show_guard(seeds: Sequence[int], report: harness.Report) -> None:
    """The table of the guard's verdicts, by kind of answers and method."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for name in real_clip.SETS.values():
        for kind, method, each in cells(Photos.read(name), seeds):
            found.setdefault((kind, method), []).append(each)
    found[("all", "")] = [each for some in found.values() for each in some]
    lines = []
    for (kind, method), some in found.items():
        matter = [each for each in some if abs(each.gain) >= 1]
        decided = [each.right for each in matter if each.right is not None]
        audits = [each.found.verdict.audit for each in matter]
        sizes = sorted(size for size in audits if size is not None)
        cells_ = (
            f"{len(some)}",
            f"{len(matter)}",
            f"{sum(each.gain > 0 for each in matter)}",
            f"{len(decided)}",
            f"{sum(decided) / len(decided):.2f}" if decided else "–",
            f"{sizes[len(sizes) // 2]} ({len(audits) - len(sizes)} none)" if sizes else "–",
        )
        lines.append(harness.Line(f"{kind} {method}".strip(), cells_))
    heads = ["cells", "≥ 1 point", "sets better", "decided", "right", "audit planned"]
    report.say("\n" + harness.markdown("guard", heads, lines))


def show_posterior(seeds: Sequence[int], report: harness.Report) -> None:
    """The table with a text prior."""
    data = Texts.read()
    columns: dict[str, list[dict[str, float]]] = {}
    for kind in ("uniform", "systematic"):
        for per_class in SHOTS:
            columns[f"{kind} {per_class}"] = [posteriors(data, kind, per_class, seed) for seed in seeds]
    rows = list(next(iter(columns.values()))[0])
    lines = [
        harness.Line(
            row,
            tuple(harness.mean_and_deviation([each[row] for each in some]) for some in columns.values()),
        )
        for row in rows
    ]
    paired = {name: [each["posterior"] - each["kNN-3, PRODEN"] for each in some] for name, some in columns.items()}
    gains = tuple(harness.mean_and_deviation(values) for values in paired.values())
    lines.append(harness.Line("posterior − kNN-3, PRODEN (paired)", gains))
    report.say(f"\n{data.photos.classes} classes, {len(data.photos.truth):,} photos")
    report.say("\n" + harness.markdown("text prior, planted mistakes", list(columns), lines))


SHOWS: dict[str, Any] = {"issues": show_issues, "guard": show_guard, "posterior": show_posterior}


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=(0, 1, 2, 3, 4))
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    args = parser.parse_args()
    real_clip.check_folder()
    with harness.reporting(args) as report:
        for name in args.tables:
            SHOWS[name](args.seeds, report)


if __name__ == "__main__":
    main()
