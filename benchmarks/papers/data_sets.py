"""What the tables of both papers share: command line, configs, and the tiny MLLMs for single rows.

The naming models know only one prompt, so a row with another prompt needs a model of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import harness
from benchmarks.grocery.models import DEFAULT_OUT
from fgvr.config.load import read_preset
from fgvr.config.tree import merge, nested
from fgvr.errors import UserError
from pipelines.command import PRESETS

DEMO_FOLDER: Final = Path("~/.cache/fgvr/demo")
LISTING: Final = "list"
"""The name of a listing model's folder, and of the rows that ask it (`Row.asks`)."""


@dataclass(frozen=True)
class OwnModel:
    """A checkpoint, and the command that trains it."""

    folder: Path
    command: str

    def tree(self) -> dict[str, Any]:
        """The changes of the config; raises UserError where the model has not been trained."""
        if not self.folder.exists():
            raise UserError(f"there is no model at {self.folder}; train it: {self.command}")
        return {"mllm": {"model": str(self.folder)}}


def grocery_models(models: Path) -> dict[str, OwnModel]:
    """By method or `Row.asks`; `models` is the folder of the grocery benchmark's."""
    asked = OwnModel(models / "vqa", f"python -m benchmarks.grocery.models --model vqa --out {models}")
    command = f"python -m benchmarks.papers.listing_models --config grocery --models {models} --out {models}"
    return {"finer": asked, "findr": asked, LISTING: OwnModel(models / LISTING, command)}


def demo_models(folder: Path = DEMO_FOLDER) -> dict[str, OwnModel]:
    """By `Row.asks`, for the shipped MLLM of the field guide."""
    command = "python -m benchmarks.papers.listing_models --config demo"
    return {LISTING: OwnModel(folder.expanduser() / LISTING, command)}


def table_parser(doc: str | None, tables: Iterable[str], out: str) -> argparse.ArgumentParser:
    """The command line of a paper's tables; `out` is the folder of their runs."""
    parser = harness.parser(doc, seeds=(0, 1, 2))
    parser.add_argument("--table", choices=list(tables), required=True, help="which table or figure of the paper")
    parser.add_argument("--config", nargs="+", default=["demo"], help="data sets (default: demo)")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of all runs; default: %(default)s")
    parser.add_argument("--models", type=Path, default=DEFAULT_OUT, help="of grocery; default: %(default)s")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="config fields of all data sets"
    )
    return parser


AS_IN_PAPERS: Final[dict[str, Any]] = {
    "ingest": {"source": {"train_per_class": 30}},
    "label": {"images": {"per_class": 10, "max_images": 20_000}},
    "aspects": {"max_images": 20_000},
    "makd": {"weights": None, "target": "auto", "min_crop": 0.5, "epochs": 20, "lr": 0.2, "workers": {"num_cpus": 2}},
}
"""The papers' setting on the drawn field guide: students from scratch, on true classes, every image asked about."""


def preset(name: str) -> dict[str, Any]:
    """The config of a data set; the demo's as the papers train, where the demo itself shows what pools bring."""
    tree = dict(read_preset(name, PRESETS))
    return merge(tree, AS_IN_PAPERS) if name == "demo" else tree


def changed(tree: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A config with `FIELD=VALUE` laid over it."""
    for change in changes:
        field, _, value = change.partition("=")
        tree = merge(tree, nested(field, yaml.safe_load(value)))
    return tree


@contextmanager
def ending_in_words() -> Iterator[None]:
    """Status 1 and the message alone where the user can mend what went wrong."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"stopped: {error}\n")
        raise SystemExit(1) from None
