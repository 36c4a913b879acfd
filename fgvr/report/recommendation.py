"""Which of the compared models to take home, by a rule that is stated with its numbers.

1. The measure is the share of right names on photos that people audited; else on photos with a true class; else the
   share of photos to which a method gives the MLLM's name, which is no share of right names.
2. A photo counts for no method that learned from it: the methods are compared on photos that none of them saw.
3. Of the methods that are at most `CLOSE` behind the best and that an exact sign test (McNemar's) cannot tell from it,
   the cheapest is recommended; where costs are not known, the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from fgvr.beliefs.audit import sign_test
from fgvr.names.spelling import fold_name
from fgvr.review.audit import clopper_pearson

if TYPE_CHECKING:
    from fgvr.report.results import MethodCost

Basis = Literal["audit", "truth", "agreement", "none"]
Mask = npt.NDArray[np.bool_]

MODELS: Final = ("near", "label_prototypes", "heads", "base", "makd")
"""Methods whose model a run stores, so that `infer.trained` can name it."""
FEWEST: Final = 30
"""Photos below which nothing is recommended: the 95% interval is then about ± 18 points wide."""
CLOSE: Final = 0.02
ERROR: Final = 0.05
BASES: Final[Mapping[str, str]] = {
    "audit": "right names on audited photos",
    "truth": "right names on photos with a true class",
    "agreement": "photos with the MLLM's name, which may be wrong too",
}


@dataclass(frozen=True)
class Standing:
    """A method's `right` of `images` photos, that share with its 95% Clopper-Pearson interval (0-1), and the tie test.

    `p` is the sign test's against the best method, 1 for that one itself; `cost` is None where it is not known.
    """

    method: str
    right: int
    images: int
    share: float
    low: float
    high: float
    p: float
    cost: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The model to take home.

    Attributes:
        method: its name; "" where nothing can be recommended.
        basis: what the methods were compared by.
        why: one or two sentences for a reader.
        standings: best first.
        left_out: method → why it is not among them.
    """

    method: str
    basis: Basis
    why: str
    standings: tuple[Standing, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def recommend(
    names: Mapping[str, Sequence[str]],
    true: Sequence[str | None],
    seen: Mapping[str, Mask],
    costs: Mapping[str, float],
    *,
    audited: bool,
) -> Recommendation:
    """The model to take home.

    Args:
        names: method → its name of each of N photos, "" where it has none; `mllm` is only compared with.
        true: true name of each photo; None or "" where it is not known.
        seen: method → whether it learned from each photo [N]; a method that is missing saw none.
        costs: method → what classifying takes, all in the same unit; those that are not known are missing.
        audited: whether the true names are what people said of an audit's photos.
    """
    models = [method for method in MODELS if method in names]
    if not models:
        return Recommendation("", "none", "No compared method leaves a model behind (evaluate.methods).")
    truth = [fold_name(name or "") for name in true]
    basis: Basis = "audit" if audited else "truth"
    if not any(truth):
        if "mllm" not in names:
            return Recommendation("", "none", "Nothing says which names are right: audit some photos.")
        truth, basis = [fold_name(name) for name in names["mllm"]], "agreement"
    known = np.array([bool(name) for name in truth], bool)
    left_out, rest = {}, []
    for method in models:
        unseen = int((known & ~seen.get(method, np.zeros(len(known), bool))).sum())
        if unseen < FEWEST:
            left_out[method] = f"only {unseen:,} of the {int(known.sum()):,} photos are none that it learned from"
        else:
            rest.append(method)
    fair = known.copy()
    for method in rest:
        fair &= ~seen.get(method, np.zeros(len(known), bool))
    if not rest or int(fair.sum()) < FEWEST:
        why = f"Fewer than {FEWEST} photos can judge the models without having taught them: audit some photos."
        return Recommendation("", "none", why, left_out=left_out)
    hits = {
        method: np.array([fold_name(name) == wanted for name, wanted in zip(names[method], truth, strict=True)], bool)[
            fair
        ]
        for method in rest
    }
    return _chosen(hits, costs, basis, left_out)


def _chosen(
    hits: Mapping[str, Mask], costs: Mapping[str, float], basis: Basis, left_out: Mapping[str, str]
) -> Recommendation:
    """The recommendation from what each method got right [n] on the same photos."""
    order = sorted(hits, key=lambda method: (-int(hits[method].sum()), costs.get(method, np.inf), method))
    best, standings = hits[order[0]], []
    for method in order:
        mine = hits[method]
        right, images = int(mine.sum()), len(mine)
        low, high = clopper_pearson(right, images)
        p = sign_test(int((best & ~mine).sum()), int((mine & ~best).sum()))
        found = Standing(method, right, images, right / images, float(low), float(high), p, costs.get(method))
        standings.append(found)
    top = standings[0]
    ties = [each for each in standings if each.p >= ERROR and top.share - each.share <= CLOSE + 1e-12]
    priced = [(each.cost, n) for n, each in enumerate(ties) if each.cost is not None]
    chosen = ties[min(priced)[1]] if len(priced) == len(ties) else top
    why = (
        f"{chosen.right:,} of {chosen.images:,} ({100 * chosen.share:.1f}%, 95% interval {100 * chosen.low:.1f} to "
        f"{100 * chosen.high:.1f}%): {BASES[basis]}, and no compared model learned from these photos."
    )
    if chosen is not top:
        why += (
            f" The best has {100 * top.share:.1f}%, which {top.images:,} photos cannot tell from it "
            f"(sign test, p = {chosen.p:.2f}); this one costs less."
        )
    elif len(ties) > 1:
        others = "Another model is" if len(ties) == 2 else f"{len(ties) - 1} other models are"
        cost = "at no lower cost" if len(priced) == len(ties) else "and what they cost is not known"
        why += f" {others} too close to call, {cost}."
    return Recommendation(chosen.method, basis, why, tuple(standings), dict(left_out))


def known_costs(costs: Mapping[str, MethodCost], fewest_rows: int) -> dict[str, float]:
    """US$ per million photos of each method, or hours per 10,000 where one has no price.

    Methods that were timed on fewer than `fewest_rows` photos are left out: that time is mostly start-up.
    """
    timed = {name: cost for name, cost in costs.items() if cost.timed_images >= fewest_rows}
    usd = {name: cost.usd_million for name, cost in timed.items() if cost.usd_million is not None}
    return usd if len(usd) == len(timed) else {name: cost.inference_hours for name, cost in timed.items()}
