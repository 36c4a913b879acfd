"""What a model that is asked in one call says of how it was asked stands with the table, as that of workers does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cluster.stage import RunContext
from fgvr import tables
from fgvr.config import build
from fgvr.mllm.backend import Answer
from fgvr.part_worker import Engine
from fgvr.tables import Table
from pipelines.run_tables import Run
from tests.untracked import NoTracking

REMARK = "the server accepts no seed"


class Model:
    """Answers everything with the same words."""

    remarks = (REMARK,)

    def __init__(self, text: str) -> None:
        self.text = text

    def label(self, requests: list[Any]) -> list[Answer]:
        return [Answer(self.text) for _ in requests]

    def generate(self, conversations: list[Any], _: object) -> list[Answer]:
        return self.label(conversations)


def here(words: str, asked: list[Engine]) -> Callable[..., Any]:
    """As `run_once`, in this process, with a model of few words."""

    def run_once(function: Callable[..., Any], *arguments: Any, workers: Any, engine: Engine, keep_engine: bool) -> Any:
        asked.append(engine)
        return function(Model(words), *arguments)

    return run_once


def table(folder: Path, name: str, rows: pa.Table) -> Table:
    tables.write_part(str(folder / name), 0, rows)
    return Table(str(folder / name), name, name, rows.num_rows, 0, 1, 10, 0.0)


@pytest.mark.parametrize("name", ["questions", "findr_meta", "finer_answers"])
def test_the_models_remarks_stand_with_the_table(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = '{"category": "bird", "unit": "species", "expert": "ornithologist"}'
    words = {"questions": "Is it red?", "findr_meta": subject, "finer_answers": "Wren"}
    asked: list[Engine] = []
    monkeypatch.setattr("cluster.once.run_once", here(words[name], asked))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    config = build({"questions": {"llm": {"kind": "openai", "model": "m"}, "subject": "birds"}})
    context = RunContext(config, str(tmp_path / "run"), NoTracking())
    ids = np.array([0])
    photo = {"image_id": ids, "uri": [str(tmp_path / "a.png")], "split": ["train"], "class_id": [0]}
    given = {"samples": table(tmp_path, "samples", pa.table(photo | {"class_name": ["Wren"]}))}
    given["labels"] = table(tmp_path, "labels", pa.table({"image_id": ids}))
    if name != "questions":
        given["questions"] = table(tmp_path, "questions", pa.table({"text": ["Is it red?"]}))
    rows = {"image_id": ids, "p_yes": [[0.9]], "error": pa.array([None], pa.string())}
    given["finer_aspects"] = table(tmp_path, "finer_aspects", pa.table(rows))
    assert Run(context, given).table(name).extra["remarks"] == [REMARK]
    assert [engine.lent for engine in asked] == [name == "findr_meta"]  # the others' model is behind a server
