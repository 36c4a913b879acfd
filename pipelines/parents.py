"""parents: the tree of kinds above the run's names. In: labels, hierarchy.source. Out: parents, and parents.csv.

    python pipelines/parents.py --hierarchy.source mllm
    python pipelines/parents.py --hierarchy.source file --hierarchy.path kinds.csv

With `hierarchy.source: mllm` a language model is asked what kind of thing each name is, without an image, and then what
kind that is (table `kind_answers`: one row per name of the label space and per true class). The table `parents` is the
tree in use, from whatever source: one row per name or kind, each behind the one above it. `parents.csv` beside it can
be edited and passed back with `--hierarchy.source file --hierarchy.path`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError, Mllm
from pipelines.asks import NAME_TOKENS, Asked, Load, sampled
from pipelines.command import stage_main
from pipelines.kinds import ASKED, check_kinds, kinds_of, stated_kinds, tree_rule
from pipelines.run_tables import Run, per_run
from pipelines.stage import RowJob, RowStage, Stage, setting

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary

CSV_FILE = "parents.csv"
UNKNOWN = "unknown"


class KindAnswers(RowStage):
    """What kind of thing each name is, as a language model says without an image, one row per name."""

    table = ASKED

    def wanted(self, config: Config) -> bool:
        """Needed where a language model says what stands above names."""
        return config.hierarchy.source == "mllm"

    def check(self, config: Config) -> None:
        """Refuse a config in which no model is asked, or one that writes nothing; raises ConfigError."""
        if config.hierarchy.source != "mllm":
            raise ConfigError(
                f"hierarchy.source = {config.hierarchy.source}: no model is asked about kinds; set it to mllm"
            )
        check_kinds(config)

    def workers(self, config: Config) -> str | None:
        """Workers of its own: the model may be another one than the MLLM."""
        return "hierarchy.workers"

    def model(self, config: Config) -> str | None:
        """The language model, or else the MLLM."""
        return "mllm" if config.hierarchy.llm is None else "hierarchy.llm"

    def shows_images(self, config: Config) -> bool:
        """Not of itself, but the model may be the one that labels."""
        return _model(config) == config.mllm

    def consults(self, run: Run) -> Iterable[str]:
        """The samples, whose true classes are asked about, too; the recipe holds all names."""
        return ("samples", "labels")

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, how it is asked, how answers are read, and the names."""
        from fgvr.mllm.backends import backend_identity, exactly
        from fgvr.mllm.kind_worker import RULES
        from fgvr.names.answers import READER

        config = run.config.hierarchy
        return {
            "llm": backend_identity(exactly(_model(run.config))),
            "rules": RULES,
            "reader": READER,
            "prompt": config.prompt,
            "rounds": config.rounds,
            "max_tokens": config.max_tokens,
            "names": run_names(run),
            "workers": config.workers,
        }

    def job(self, run: Run) -> RowJob:
        """One row per name, with the kinds above it."""
        import numpy as np

        from fgvr.mllm.kind_worker import KindSettings, KindWorker
        from fgvr.mllm.signature_worker import ClassRows
        from fgvr.schemas import KIND_ANSWERS

        names, config = run_names(run), run.config.hierarchy
        settings = KindSettings(config.prompt, config.rounds, config.max_tokens)
        ids = np.arange(len(names), dtype=np.int64)
        return RowJob(ids, KindWorker, {"settings": settings}, KIND_ANSWERS, ("class_id", "name"), ClassRows(names))

    def asks(self, run: Run) -> Asked:
        """Up to `hierarchy.rounds` requests per name, in text only; fewer where names share a kind."""
        from fgvr.mllm.request_tokens import FRAME, text_tokens

        config, kinds = run.config.hierarchy, run.photos.kinds
        few = sampled(run.config, run.photos)
        prompt = FRAME + text_tokens(config.prompt) + NAME_TOKENS
        row = Load(1, prompt, 0, config.max_tokens).times(config.rounds)
        return Asked(min(few, kinds or few) + kinds, row, at_most=True)


class Parents(Stage):
    """The tree of kinds in use, one row per name or kind: what stands above it, its depth, and who says so."""

    table = "parents"
    phase = None

    def wanted(self, config: Config) -> bool:
        """Shown where there is a tree."""
        return config.hierarchy.source != "none"

    def check(self, config: Config) -> None:
        """Read the source; raises a UserError."""
        if config.hierarchy.source == "none":
            raise ConfigError("hierarchy.source = none: there is no tree; set it to file, wordnet or mllm")
        check_kinds(config)

    def consults(self, run: Run) -> Iterable[str]:
        """The samples and labels, which have the names."""
        return ("samples", "labels")

    def reads(self, run: Run) -> Iterable[str]:
        """The language model's answers, where one says what stands above names."""
        return (ASKED,) if run.config.hierarchy.source == "mllm" else ()

    def recipe(self, run: Run) -> dict[str, Any]:
        """The source by its content, and the names."""
        return {"source": run.config.hierarchy.source, **stated_kinds(run), "names": run_names(run)}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Write the tree, and say how many names nothing stands above.

        Raises:
            KindsError: models are to decide in it, and it has none of the names.
        """
        names, source = run_names(run), run.config.hierarchy.source
        said = run.table(ASKED).read() if source == "mllm" else None
        if run.config.hierarchy.decide != "most_probable" and (rule := tree_rule(run)) is not None:
            rule.of(names)  # raises where it has none of them: hours before models decide in it
        rows = _rows(run, names, said)
        folder.write_bytes(CSV_FILE, _as_csv(rows))
        summary = folder.write_table(rows)
        alone = [row["reason"] for row in rows.select(["reason"]).to_pylist() if row["reason"] is not None]
        summary.metrics = {"names_without_kind": float(len(alone))}
        if alone:
            why = ", ".join(f"{reason} {count:,}" for reason, count in Counter(alone).most_common())
            summary.remarks = (f"nothing stands above {len(alone):,} of {len(names):,} names ({why})",)
        return summary


@per_run
def run_names(run: Run) -> tuple[str, ...]:
    """The names of the run: the label space in its order, then the true class names that it lacks, sorted."""
    import pyarrow.compute as pc

    from fgvr.names.label_space import read_label_space
    from fgvr.names.spelling import fold_name

    true: set[str] = set()
    for rows in run.table("samples").batches(["class_name"]):
        true.update(pc.unique(rows["class_name"].drop_null()).to_pylist())
    found: dict[str, str] = {}
    for name in (*read_label_space(run.table("labels")).labels, *sorted(true)):
        if key := fold_name(name):
            found.setdefault(key, name)
    return tuple(found.values())


def _rows(run: Run, names: Sequence[str], said: pa.Table | None) -> pa.Table:
    """The tree of these names in preorder."""
    import pyarrow as pa

    from fgvr.hierarchy.tree import ROOT
    from fgvr.schemas import PARENTS

    kinds = kinds_of(run)
    if kinds is None:
        raise ConfigError("hierarchy.source = none: there is no tree")
    tree = kinds.tree(names)
    own = set(tree.nodes(names).tolist())
    strangers = set(tree.nodes(tree.unknown).tolist())
    answers: dict[int, tuple[str | None, str | None]] = {}
    if said is not None:
        columns = said.select(["name", "answers", "ended", "error"]).to_pylist()
        for node, row in zip(tree.nodes([row["name"] for row in columns]).tolist(), columns, strict=True):
            why = row["ended"] if row["error"] is None else row["error"]["reason"]
            answers.setdefault(node, (next(iter(row["answers"] or ()), None), why))
    rows = []
    for node in range(1, len(tree.names)):
        answer, why = answers.get(node, (None, None))
        above = int(tree.parent[node])
        at_top = node in strangers or (said is not None and node in answers and above == ROOT)
        rows.append(
            {
                "name": tree.names[node],
                "parent": None if above == ROOT else tree.names[above],
                "depth": int(tree.depth[node]),
                "level": tree.level_of(node) or None,
                "source": run.config.hierarchy.source,
                "is_name": node in own,
                "answer": answer,
                "reason": (why or UNKNOWN) if at_top else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=PARENTS)


def _as_csv(rows: pa.Table) -> bytes:
    """Links that `fgvr.hierarchy.kinds.read_kinds` reads again; names that the source does not know are left out."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "parent"))
    known = [row for row in rows.to_pylist() if row["level"] is not None]
    writer.writerows((row["name"], row["parent"] or "") for row in known)
    return text.getvalue().encode()


def _model(config: Config) -> Mllm:
    model: Mllm = setting(config, KindAnswers().model(config) or "")
    return model


if __name__ == "__main__":
    stage_main(__doc__, "parents")
