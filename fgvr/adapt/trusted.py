"""Which photos have a name that can be trusted, why, and which of them judge what the others taught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Ids, Labels
from fgvr.mllm.adapter_folder import AdapterError
from fgvr.simulation import mixed
from fgvr.sources.sampling import first_of

RULES: Final = 1
"""Increase it when the same tables would give other photos."""
LEAST_LEARNED: Final = 8
LEAST_JUDGED: Final = 20
"""With fewer photos to judge, hardly any difference could be told from chance."""

Reason = Literal["checked", "unlabelled", "disagreed", "unjudged", "suspicious", "agreed"]
"""Why a name is trusted (checked, agreed) or not: no name; several answers about the photo differ; nothing near the
photo says what it shows; its neighbours prefer another name."""
TRUSTED: Final = ("checked", "agreed")
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Image ids of the photos that are learned from and of those that judge, int64, ascending."""

    learned: Ids
    judged: Ids


def reasons(own: Labels, *, checked: Flags, differ: Flags, judged: Flags, doubted: Flags) -> npt.NDArray[np.str_]:
    """Why the name of each of n photos is trusted, or not: `Reason`.

    Args:
        own: its name, int32 [n]; `NONE` where it has none.
        checked: whether a person has checked it, bool [n].
        differ: whether several answers about it, or several sources, say different names, bool [n].
        judged: whether its neighbours have labels that say something about it, bool [n].
        doubted: whether they prefer another name, bool [n].
    """
    rules = [checked & (own != NONE), own == NONE, differ, ~judged, doubted]
    return np.select(rules, [name for name in get_args(Reason) if name != "agreed"], default="agreed")


def joined_groups(*keys: Ids) -> Ids:
    """Group number per photo, int64 [n]: two photos are in one group where any key is the same, directly or by others.

    Args:
        keys: int64 [n] each; −1: this key says nothing about the photo.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(keys[0])
    rows, columns, width = [], [], count
    for key in keys:
        there = np.flatnonzero(key >= 0)
        numbers = np.unique(key[there], return_inverse=True)[1]
        rows.append(there)
        columns.append(width + numbers)
        width += int(numbers.max(initial=-1)) + 1
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(row), np.int8), (row, column)), shape=(width, width))
    return np.asarray(connected_components(graph, directed=False)[1][:count], dtype=np.int64)


def split(
    ids: Ids,
    names: Labels,
    why: npt.NDArray[np.str_],
    groups: Ids,
    *,
    judge_share: float,
    max_learned: int,
    max_judged: int,
    seed: int,
) -> Split:
    """Divide the trusted photos, whole groups at a time; groups with a checked photo by themselves.

    The groups are drawn in the order of `fgvr.sources.sampling.first_of`, until the photos in them are the share.

    Args:
        ids: image ids of the trusted photos, int64 [n], ascending.
        names: their names, int32 [n].
        why: `checked` or `agreed`, [n].
        groups: group of each, int64 [n].
        judge_share: share of the photos that judge.
        max_learned: most photos to learn from; checked ones first.
        max_judged: most photos that judge; checked ones first.
        seed: of the draws.

    Raises:
        AdapterError: too few photos on a side, or one name alone to learn.
    """
    checked = why == "checked"
    numbers = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    with_checked = np.zeros(int(numbers.max(initial=-1)) + 1, bool)
    with_checked[numbers[checked]] = True
    judges = np.zeros(len(ids), bool)
    for part in (with_checked[numbers], ~with_checked[numbers]):
        judges |= part & np.isin(numbers, _drawn(ids[part], numbers[part], judge_share, seed))
    learned = _fewer(ids, ~judges, checked, max_learned, seed)
    judged = _fewer(ids, judges, checked, max_judged, seed)
    _check(learned, judged, len(np.unique(names[np.isin(ids, learned)])), int(with_checked.size))
    return Split(learned, judged)


def _drawn(ids: Ids, groups: Ids, share: float, seed: int) -> Ids:
    """Groups with together at most this share of the photos, at random: int64."""
    if not len(ids):
        return groups
    first, sizes = np.unique(groups, return_index=True)[1], np.unique(groups, return_counts=True)[1]
    # A group stands under the id of its first photo, so that its place in the order depends on nothing else.
    of_first = dict(zip(ids[first].tolist(), zip(groups[first].tolist(), sizes.tolist(), strict=True), strict=True))
    left, taken = round(share * len(ids)), []
    for at in _in_order(ids[first], seed):
        group, size = of_first[at]
        if size <= left:
            taken.append(group)
            left -= size
    return np.array(taken, np.int64)


def _in_order(ids: Ids, seed: int) -> list[int]:
    """The ids in the random order of `first_of`."""
    of_seed = mixed(np.array([seed], dtype=np.uint64))
    order: list[int] = ids[np.argsort(mixed(of_seed + ids.astype(np.uint64)))].tolist()
    return order


def _fewer(ids: Ids, mine: Flags, checked: Flags, most: int, seed: int) -> Ids:
    """At most so many of the photos, ascending; those that a person has checked first."""
    sure = first_of(ids[mine & checked], most, seed)
    return np.sort(np.concatenate([sure, first_of(ids[mine & ~checked], most - len(sure), seed)]))


def _check(learned: Ids, judged: Ids, names: int, groups: int) -> None:
    if len(learned) < LEAST_LEARNED or len(judged) < LEAST_JUDGED:
        raise AdapterError(
            f"adapt: {len(learned):,} trusted photos to learn from and {len(judged):,} to judge, in {groups:,} groups; "
            f"at least {LEAST_LEARNED} and {LEAST_JUDGED} are needed: check more labels (label.checked), name more "
            "photos (label.images.max_images), or change adapt.judge_share"
        )
    if names < 2:
        raise AdapterError(
            "adapt: all trusted photos to learn from have one name, and a model that always says it would get every "
            "reward; trust photos of at least two names (label.checked)"
        )
