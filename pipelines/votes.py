"""votes: what every source of labels says of every image, in one label space. In: labels, answers. Out: votes.

    python pipelines/votes.py --config my.yaml

One row per image, source and name, images in the order of the labels table, sources in that of `label.sources`, names
with the heaviest first. An image of which a source says nothing has no row of it. What a person has checked
(`label.checked`) is no vote: it is in the labels table alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from pipelines.command import stage_main
from pipelines.label import Labels
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary

RULES = 1
"""Increased when the same answers give other votes."""


class Votes(Stage):
    """What each source of labels says of each discovery image."""

    table = "votes"

    def wanted(self, config: Config) -> bool:
        """Where there are several sources: those of one are in the labels table."""
        return len(config.label.sources) > 1

    def reads(self, run: Run) -> Iterable[str]:
        """The labels, whose space the votes share, and all answers."""
        return ("labels", *Labels().reads(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The names of the sources; how answers are read, the labels decide."""
        return {"rules": RULES, "sources": source_names(run.config)}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """One part per part of the first source's answers, holding the same images."""
        from cluster.stage import StageSummary
        from fgvr.names.label_space import read_label_space
        from fgvr.names.votes import vote_rows

        stage = Labels()
        named = stage.named(run)
        if named.space != read_label_space(run.table("labels")):
            raise RuntimeError("votes: the answers give another label space than the labels table has")
        forms = [(run.table(name), form) for name, form in stage.forms(run).items()]
        sources = list(zip(source_names(run.config), forms, strict=True))
        rows = parts = 0
        for first in forms[0][0].batches(["image_id"]):
            ids = first["image_id"].to_numpy()
            votes = vote_rows([(name, table.find(ids), form) for name, (table, form) in sources], named)
            folder.write_part(parts, votes)
            parts, rows = parts + 1, rows + votes.num_rows
        extra = {"sources": source_names(run.config), "images": forms[0][0].rows}
        return StageSummary(
            rows, parts=parts, rows_per_part=1, extra=extra
        )  # parts hold whole images, any number of rows


def source_names(config: Config) -> list[str]:
    """Names of the sources as the votes have them; `mllm` where the config lists none."""
    return [source.name for source in config.label.sources] or ["mllm"]


if __name__ == "__main__":
    stage_main(__doc__, "votes")
