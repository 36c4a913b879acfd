"""issues: labels in the order in which they are most probably wrong. In: samples, labels, embeddings. Out: issues.

    python pipelines/issues.py --run.name mine

One row per discovery image, with a score (an order, not a probability), the names that it might have instead, and why.
Beside the table lies `issues.csv`, the worst first, for a look at them. Nothing is changed by it: an edited label comes
back with `label.checked`, and `label.reask` asks the MLLM again. See docs/label-issues.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr.arrays import NONE
from fgvr.config import ConfigError
from pipelines.beliefs import MOST_BELIEVED, TooManyImages, in_space, own_names
from pipelines.checked import checked_names
from pipelines.command import stage_main
from pipelines.duplicates import photos_of
from pipelines.stage import Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Floats, Ids, Labels
    from fgvr.beliefs.guard import Flags
    from fgvr.beliefs.label_issues import LabelIssues
    from fgvr.candidates.sets import CandidateSets
    from fgvr.config import Config
    from pipelines.run_tables import Run

ISSUES_FILE = "issues.csv"
LISTED = 1_000
"""Images in that file."""
NOTHING_NEAR = "no label reaches it from its neighbours"
"""In the column `why`: the neighbours say nothing, neither for the label nor against it."""


class Issues(Stage):
    """Labels in the order in which they are most probably wrong, with other names and why."""

    table = "issues"
    phase = None

    def wanted(self, config: Config) -> bool:
        """Needed where the report shows them, or the MLLM is asked again about them."""
        return config.evaluate.report_issues > 0 or config.label.reask > 0

    def check(self, config: Config) -> None:
        """Raise ConfigError for made-up vectors, which know nothing of the photos."""
        if config.embed.vectors.made_up:
            raise ConfigError(
                "embed.vectors.kind = simulated: label issues are found by what photos look like; set it to clip"
            )

    def reads(self, run: Run) -> Iterable[str]:
        """The labels that are judged, the vectors, and the space in which images are near."""
        return ("samples", "labels", "embeddings", "space")

    def recipe(self, run: Run) -> dict[str, Any]:
        """The rules of the order."""
        from fgvr.beliefs import label_issues

        return {"rules": label_issues.RULES}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Judge all labels at once.

        Raises:
            TooManyImages: the driver could not hold them.
        """
        from fgvr.names.label_space import read_label_space
        from fgvr.neighbours.discovery import discovery_vectors

        labels = run.table("labels")
        ids, names = own_names(labels)
        if len(ids) > MOST_BELIEVED:
            raise TooManyImages(
                f"issues: {len(ids):,} labelled images, of which it judges at most {MOST_BELIEVED:,} at once; lower "
                "label.images.max_images"
            )
        space = read_label_space(labels).labels
        vectors, embedded = discovery_vectors(run.table("embeddings"), ids)
        rows = first_copies(vectors, embedded, names.first, photos_of(labels, ids))
        checked = checked_names(labels, ids, names.first)
        white = in_space(run, vectors[rows])
        found = judged(names.only(embedded), white, rows, len(space), checked)
        table = issue_rows(ids, names, rows, found, space=space, embedded=embedded)
        summary = folder.write_table(table)
        worst = rows[found.worst(LISTED)]
        uris = run.table("samples").take(ids[worst], ["image_id", "uri"])
        folder.write_bytes(ISSUES_FILE, _csv(table, worst, uris))
        summary.metrics = {
            "judged": float(np.isfinite(found.score).sum()),
            "contradicted": float((found.other_share > found.own_share).sum()),
        }
        return summary


def first_copies(vectors: Any, embedded: Flags, own: Labels, photos: Ids | None) -> Ids:
    """Rows of the images with a vector, one per photo, int64 ascending: its first labelled copy, if any has a label.

    Copies have one opinion of the MLLM in common, so they must not vouch for each other.
    """
    from fgvr.neighbours.discovery import digests_of

    there = np.flatnonzero(embedded)
    if photos is None:
        photo = np.asarray(np.unique(digests_of(vectors[there]), return_inverse=True)[1])
    else:
        photo = photos[there]
    order = np.lexsort((there, own[there] == NONE))
    first = np.unique(photo[order], return_index=True)[1]
    return np.sort(there[order[first]])


def judged(names: CandidateSets, white: Floats, rows: Ids, space: int, checked: Labels | None = None) -> LabelIssues:
    """The issues of the images `rows`, of which some may have no label.

    Args:
        names: the names that the MLLM gave all N images.
        white: whitened vectors of the images `rows`, float32 [n, d].
        rows: row numbers of the images to judge, int64 [n].
        space: number of names in the label space.
        checked: names that a person gave, int32 [N]; `NONE` where nobody has looked.
    """
    import os

    from fgvr.beliefs.label_issues import label_issues
    from fgvr.heads.propagation import NEIGHBOURS
    from fgvr.neighbours import nearest

    mine = np.arange(len(rows), dtype=np.int64)
    near_ids, similarities = np.full((len(rows), NEIGHBOURS), NONE, np.int64), np.zeros((len(rows), NEIGHBOURS))
    if len(rows) > 1:
        k = min(1 + NEIGHBOURS, len(rows))
        near = nearest(white, white, k, own=mine, threads=len(os.sched_getaffinity(0)))
        near_ids[:, : k - 1], similarities[:, : k - 1] = near.ids[:, 1:], near.scores[:, 1:]
    given, looked = names.label_ids[rows], None if checked is None else checked[rows]
    return label_issues(
        given[:, 0], white, space, near_ids, similarities.astype(np.float32), listed=given, checked=looked
    )


def issue_rows(
    ids: Ids, names: CandidateSets, rows: Ids, found: LabelIssues, *, space: Sequence[str], embedded: Flags
) -> pa.Table:
    """Rows of the issues schema, one per discovery image, in the order of their ids.

    Args:
        ids: int64 [N], ascending.
        names: the names that the MLLM gave them.
        rows: row numbers of the judged images, int64 [n].
        found: their issues.
        space: the label space.
        embedded: bool [N], has a vector.
    """
    import pyarrow as pa

    from fgvr import schemas

    labels = [None if name == NONE else space[name] for name in names.first]
    scores: list[float | None] = [None] * len(ids)
    suggested: list[list[str]] = [[] for _ in ids]
    preferred: list[str | None] = [None] * len(ids)
    why = [
        "not judged: it has no label" if label is None else _not_judged(bool(there))
        for label, there in zip(labels, embedded, strict=True)
    ]
    for at, row in enumerate(rows.tolist()):
        label = labels[row]
        if label is not None and np.isfinite(found.score[at]):
            scores[row] = float(found.score[at])
            suggested[row] = [space[name] for name in found.suggested[at] if name != NONE]
            if found.other_share[at] > found.own_share[at]:
                preferred[row] = space[found.other[at]]
            why[row] = _why(found, at, label, space)
        elif label is not None:
            why[row] = "not judged: a person has checked it"
    return pa.table([ids, labels, scores, suggested, preferred, why], schema=schemas.ISSUES)


def _not_judged(embedded: bool) -> str:
    """Why an image with a label is not judged, where its own neighbourhood does not say more."""
    return "not judged: another copy of the photo is" if embedded else "not judged: it has no vector"


def _why(found: LabelIssues, at: int, label: str, space: Sequence[str]) -> str:
    """What the neighbours say of the image at place `at`."""
    if found.other[at] == NONE and not found.own_share[at]:
        return NOTHING_NEAR
    other = "" if found.other[at] == NONE else f", {found.other_share[at]:.0%} {space[found.other[at]]}"
    return f"its neighbours' labels: {found.own_share[at]:.0%} {label}{other}"


def _csv(table: pa.Table, worst: Ids, uris: pa.Table) -> bytes:
    """The images at the rows `worst`, worst first."""
    places = dict(zip(uris["image_id"].to_pylist(), uris["uri"].to_pylist(), strict=True))
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["image_id", "uri", "label", "score", "suggested", "why", "right_name"])
    for row in table.take(worst).to_pylist():
        said = [row["label"], f"{row['score']:.4f}", " | ".join(row["suggested"]), row["why"]]
        writer.writerow([row["image_id"], places[row["image_id"]], *said, ""])
    return content.getvalue().encode()


if __name__ == "__main__":
    stage_main(__doc__, "issues")
