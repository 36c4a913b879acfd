"""A run's results for notebooks and scripts: its tables, names, predictions and trained models. Only reads.

    run = fgvr.open_run("runs/demo")
    run.predictions()                  # Polars: uri, label, score, abstained, error
    run.names()                        # Polars: name, photos
    run.arrow("labels")                # any table, as Arrow
    run.model("near").scores([image])  # probabilities of run.model("near").labels

A table of a run may exist several times, once per settings (`tables/<name>/<fingerprint>/`). What a run's last session
asked for is in its record; that is the one meant here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fgvr import storage
from fgvr.errors import UserError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from fgvr.models.base import ImageClassifier
    from fgvr.tables import Table

RECORD: Final = "session.json"
"""The record of a run's last session, written by `cluster/run_record.py`."""


class NotInRun(UserError, LookupError):
    """A folder holds no run, or a run lacks what was asked for."""


def open_run(folder: str | Path) -> OpenedRun:
    """A run by its folder, a local path or a URL such as `s3://bucket/runs/mine`.

    The run may still be going on: then only its finished tables are there, and a later call finds more.

    Raises:
        NotInRun: the folder holds no finished table.
    """
    place = storage.absolute(str(folder))
    root = storage.join(place, "tables")
    choices = {name: storage.list_entries(storage.join(root, name))[1] for name in storage.list_entries(root)[1]}
    found, unclear = {}, {}
    asked = _asked(place)
    for name, there in sorted(choices.items()):
        prints = [each for each in there if each == asked[name]] if name in asked else there
        done = [table for each in prints if (table := _finished(storage.join(root, name, each))) is not None]
        if len(done) == 1:
            found[name] = done[0]
        elif done:
            unclear[name] = [table.fingerprint for table in done]
    if not found and not unclear:
        raise NotInRun(
            f"there is no finished table in {place}: name a run's folder, as runs/demo or s3://bucket/runs/demo"
        )
    return OpenedRun(place, found, unclear)


def _asked(folder: str) -> dict[str, str]:
    """Table → fingerprint, as the last session asked for them; empty for runs of versions that kept no record."""
    try:
        stages = json.loads(storage.read_bytes(storage.join(folder, RECORD)))["stages"]
        return dict(stages)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return {}


def _finished(uri: str) -> Table | None:
    from fgvr.tables import Table

    try:
        return Table.load(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass(frozen=True)
class OpenedRun:
    """A run that is read.

    Attributes:
        folder: its folder, an absolute path or a URL.
        tables: name → finished table, which also knows how many rows failed and why.
        unclear: tables that exist with several settings of which none is known as the last: name → fingerprints.
    """

    folder: str
    tables: dict[str, Table]
    unclear: dict[str, list[str]]

    def table(self, name: str) -> Table:
        """A finished table, without its rows; raises NotInRun."""
        if name in self.tables:
            return self.tables[name]
        if name in self.unclear:
            places = ", ".join(self.unclear[name])
            raise NotInRun(
                f"table {name} is in {self.folder} with several settings ({places}), and which of them the run used "
                "last is not recorded: read one with fgvr.tables.Table.load"
            )
        raise NotInRun(f"{self.folder} has no finished table {name}; it has: {', '.join(self.tables)}")

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A table's rows in memory, failed ones (`error` is not null) included; for large ones name the columns."""
        return self.table(name).read(None if columns is None else list(columns))

    def polars(self, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Like `arrow`, as a Polars frame."""
        import polars as pl

        found = pl.from_arrow(self.arrow(name, columns))
        assert isinstance(found, pl.DataFrame)  # noqa: S101  # a table gives a frame, a column would give a series
        return found

    def predictions(self) -> pl.DataFrame:
        """A row per photo: `uri`, `label`, `score` (0 to 1), `abstained`, and `error`, the reason code where there is
        no label (`fgvr.failures`).
        """
        import polars as pl

        rows = self.polars("predictions", ["image_id", "label", "score", "abstained", "error"])
        photos = self.polars("samples", ["image_id", "uri"])
        return rows.join(photos, on="image_id", how="left", maintain_order="left").select(
            "uri", "label", "score", "abstained", pl.col("error").struct.field("reason").alias("error")
        )

    def names(self) -> pl.DataFrame:
        """All names of the label space: `name`, and how many `photos` the model gave it; the most frequent first."""
        import polars as pl

        # By name, as in `model`: this module is a front door, and an import would close a circle of packages.
        space = import_module("fgvr.names.label_space").read_label_space(self.table("labels")).labels
        counted = self.polars("labels", ["label"]).drop_nulls().group_by("label").len()
        return (
            pl.DataFrame({"name": list(space)}, schema={"name": pl.String})
            .join(counted, left_on="name", right_on="label", how="left")
            .select("name", pl.col("len").fill_null(0).cast(pl.Int64).alias("photos"))
            .sort(["photos", "name"], descending=[True, False])
        )

    def model(self, name: str = "makd", device: str = "cpu") -> ImageClassifier:
        """A trained model; needs torch (extra `cpu` or `gpu`).

        Args:
            name: the table that trained it: `near`, `base` or `makd`.
            device: `cpu`, `cuda` or another device of torch.

        Raises:
            NotInRun: the run has no such model.
        """
        place = self.table(name).path("model")
        if "://" in place:
            raise NotInRun(f"{place}: models are loaded from local folders: copy it, or use MLflow's model (README.md)")
        if not Path(place).is_dir():
            trained = [each for each in ("near", "base", "makd") if each in self.tables]
            raise NotInRun(f"table {name} holds no model; those that do here: {', '.join(trained) or 'none'}")
        classifier: ImageClassifier = import_module("fgvr.models.infer").load_classifier(Path(place), device)
        return classifier

    def report(self) -> str:
        """Where the report's page is, for a browser."""
        return self.table("report").path("report.html")
