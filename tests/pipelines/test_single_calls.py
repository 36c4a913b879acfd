"""What a model that is asked in one call says of how it was asked stands with the table, as that of workers does."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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
from pipelines import questions
from pipelines.methods import findr, finer
from tests.untracked import NoTracking

REMARK = "the server takes no seed"


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

    def run_once(function: Callable[..., Any], *arguments: Any, workers: Any, engine: Engine) -> Any:
        asked.append(engine)
        return function(Model(words), *arguments)

    return run_once


def table(folder: Path, name: str, rows: pa.Table) -> Table:
    tables.write_part(str(folder / name), 0, rows)
    return Table(str(folder / name), name, name, rows.num_rows, 0, 1, 10, 0.0)


@pytest.mark.parametrize("module", [questions, findr, finer])
def test_the_models_remarks_stand_with_the_table(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = '{"category": "bird", "unit": "species", "expert": "ornithologist"}'
    words = {questions: "Is it red?", findr: subject, finer: "Wren"}
    asked: list[Engine] = []
    monkeypatch.setattr(module, "run_once", here(words[module], asked))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    config = build({"questions": {"llm": {"kind": "openai", "model": "m"}, "subject": "birds"}})
    context = RunContext(config, str(tmp_path / "run"), NoTracking())
    ids = np.array([0])
    photo = {"image_id": ids, "uri": [str(tmp_path / "a.png")], "class_name": ["Wren"]}
    samples = table(tmp_path, "samples", pa.table(photo))
    if module is questions:
        found = questions.run(context, SimpleNamespace(context=context, samples=samples))  # type: ignore[arg-type]
    elif module is findr:
        found = findr._meta(context, samples, ids)
    else:
        texts = table(tmp_path, "questions", pa.table({"text": ["Is it red?"]}))
        rows = {"image_id": ids, "p_yes": [[0.9]], "error": pa.array([None], pa.string())}
        found = finer._propose(context, texts, table(tmp_path, "aspects", pa.table(rows)))
    assert found.extra["remarks"] == [REMARK]
    assert [engine.lent for engine in asked] == [module is findr]  # the others' model is behind a server
