"""The compared methods with the demo's CLIP; a server stands for the MLLM and for a language model.

What Ray does with parts and with single calls is tested elsewhere: here both run in this process, after pickling.
"""

import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.parts import PartJob, TooManyFailures
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import storage
from fgvr.baselines.vocabularies import caption_words
from fgvr.clip.model import load_clip
from fgvr.clip.vectors import read_vectors
from fgvr.config import Clip, build
from fgvr.config.base import Workers
from fgvr.demo.captions import field_guide_captions
from fgvr.demo.species import SPECIES
from fgvr.part_worker import Engine
from fgvr.tables import Table
from pipelines.run_tables import Run
from tests.untracked import NoTracking

sys.path.append(str(Path(__file__).parents[1] / "fgvr" / "mllm"))
from chat_server import ChatServer, Reply, completion, prompt_of, serving

pytestmark = pytest.mark.slow

NAMES = [species.name for species in SPECIES[::5]]
LLM_NAMES = [SPECIES[1].name, SPECIES[20].name]
EXPERT_NAMES = [species.name for species in SPECIES[2::7]]
METHODS = ["zs_wordnet", "cased", "prototypes", "finer", "findr"]
NOUNS = ["azure finch", "golden warbler", "heron", "slate thrush", "tea bag"]


def model(body: dict[str, Any], _: int) -> Reply:
    """Names by the pixels, wrongly: what is made of names is tested here, not the names."""
    prompt = prompt_of(body)
    if "answered questions about it" in prompt:  # the language model of finer; it always says what it knows best
        return completion(f"1. {LLM_NAMES[0]}\n2. {LLM_NAMES[1]} (less likely)" if "belly" in prompt else "Sorry!")
    if "JSON" in prompt:
        return completion('```json\n{"category": "bird", "unit": "species", "expert": "ornithologist"}\n```')
    if "logprobs" in body:
        return completion("Yes", tops={"Yes": -0.1, "No": -3.0} if "belly" in prompt else {"Yes": -2.0, "No": -2.0})
    url = body["messages"][-1]["content"][0]["image_url"]["url"]
    names = EXPERT_NAMES if "professional ornithologist" in prompt else NAMES
    return completion(names[hashlib.sha256(url.encode()).digest()[0] % len(names)])


def run_parts_here(folder: StageFolder, job: PartJob, ids: np.ndarray, _: str) -> StageSummary:
    """In place of Ray Data: one worker, one part after the other."""
    job = pickle.loads(pickle.dumps(job))  # noqa: S301
    worker = job.worker_with(None if job.engine is None else job.engine.load())
    rows = worker.process(job.samples.take(ids, list(job.columns)))
    summary = folder.write_table(rows, job.workers.rows_per_part)
    summary.metrics = {n: float(sum(rows[n].to_pylist())) for n in rows.schema.names if n.endswith("_tokens")}
    return summary


def run_once_here(
    function: Any, *arguments: Any, workers: Workers, engine: Engine | None = None, keep_engine: bool = True
) -> Any:
    """In place of a Ray task."""
    assert isinstance(workers, Workers)
    function, arguments, engine = pickle.loads(pickle.dumps((function, arguments, engine)))  # noqa: S301
    return function(*arguments) if engine is None else function(engine.load(), *arguments)


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageFolder, "run_parts", run_parts_here)
        patch.setattr("cluster.once.run_once", run_once_here)
        yield


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("methods")
    lines = [f"{noun.replace(' ', '_')} n 1 2 @ ~ 1 0 01529672\n" for noun in NOUNS]
    (folder / "index.noun").write_text("  1 licence\n" + "".join(lines))
    with serving(ChatServer(model)) as server:
        config = {
            "ingest": {"source": {"kind": "field_guide", "train_per_class": 2, "test_per_class": 1}},
            "mllm": {"kind": "openai", "base_url": server.url, "model": "m", "max_retries": 0},
            "label": {"images": {"per_class": 1}},
            "embed": {"workers": {"rows_per_part": 50}},
            "evaluate": {"methods": METHODS, "report_images": 0},
            "baselines": {
                "wordnet": {"path": str(folder / "index.noun")},
                "prototypes": {"views": 3},
                "finer": {
                    "llm": {"kind": "openai", "base_url": server.url, "model": "llm", "max_retries": 0},
                    "names": 2,
                },
            },
        }
        context = RunContext(build(config), str(folder / "run"), NoTracking())
        yield Run(context)


def images(flow: Run) -> np.ndarray:
    rows = flow.table("samples").read(["image_id", "split"])
    return rows["image_id"].to_numpy()[np.array(rows["split"].to_pylist()) == "test"]


def vectors(flow: Run, ids: np.ndarray) -> np.ndarray:
    return read_vectors(flow.table("embeddings"), ids)[0].astype(np.float32)


def named(flow: Run, method: Any) -> tuple[list[str], Table]:
    table = flow.table(f"eval_{method}")
    assert table.name == f"eval_{method}"
    assert table.failed == 0
    assert Run(flow.context).table(f"eval_{method}").uri == table.uri
    assert table.read()["image_id"].to_pylist() == images(flow).tolist()
    return table.read()["label"].to_pylist(), table


def test_zs_wordnet_picks_the_noun_whose_text_is_nearest(flow: Run) -> None:
    labels, _ = named(flow, "zs_wordnet")
    texts = load_clip(Clip()).encode_texts([f"a photo of a {noun}." for noun in NOUNS])
    expected = (vectors(flow, images(flow)) @ texts.T).argmax(axis=1)
    assert np.mean([NOUNS[best] == label for best, label in zip(expected, labels, strict=True)]) > 0.95  # halfs
    assert [table.name for table in flow.context.tables].count("wordnet") >= 1


def test_cased_names_by_words_of_the_field_guides_web(flow: Run) -> None:
    labels, table = named(flow, "cased")
    assert all(len(label.split()) == 1 for label in labels)
    said = {word for caption in field_guide_captions() for word in caption_words(caption)}
    assert set(labels) <= said
    assert all(0 < score <= 1 for score in table.read()["score"].to_pylist())


def test_prototypes_of_the_mllms_names(flow: Run) -> None:
    labels, _ = named(flow, "prototypes")
    space = json.loads(storage.read_bytes(flow.table("labels").path("label_space.json")))["labels"]
    discovery = vectors(flow, flow.table("labels").read()["image_id"].to_numpy())
    votes = (discovery @ load_clip(Clip()).encode_texts(space).T).argmax(axis=1)
    winners = {space[vote] for vote in votes}
    assert set(labels) <= winners <= set(NAMES)
    views = next(table for table in flow.context.tables if table.name == "prototype_views")
    assert views.extra["dim"] == 3 * 128


def test_finer_takes_the_language_models_names_for_the_answers(flow: Run) -> None:
    labels, _ = named(flow, "finer")
    assert set(labels) <= set(LLM_NAMES)
    answers = next(table for table in flow.context.tables if table.name == "finer_answers")
    assert answers.rows == flow.table("labels").rows
    assert answers.extra["metrics"] == {"prompt_tokens": 20.0 * answers.rows, "output_tokens": 3.0 * answers.rows}
    assert answers.failed == 0


def test_findr_asks_as_the_expert_that_the_model_named(flow: Run) -> None:
    labels, _ = named(flow, "findr")
    assert set(labels) <= set(EXPERT_NAMES)
    meta = next(table for table in flow.context.tables if table.name == "findr_meta")
    assert meta.read().to_pylist() == [{"category": "bird", "unit": "species", "expert": "ornithologist"}]


def test_replies_are_kept_with_the_run(flow: Run) -> None:
    named(flow, "findr")
    assert list(Path(flow.context.folder, "replies").rglob("*.replies"))


def test_a_language_model_that_names_nothing_ends_the_method(flow: Run) -> None:
    config = flow.context.config
    file = Path(flow.context.folder, "q.txt")
    file.write_text("Is it round?\n")
    questions = config.questions.model_copy(update={"file": str(file)})
    other = RunContext(
        config.model_copy(update={"questions": questions}),
        flow.context.folder,
        NoTracking(),
    )
    with pytest.raises(TooManyFailures, match=r"finer_labels: 36 of 36 rows failed \(refused \(36\), e\.g\. image"):
        Run(other).table("eval_finer")
