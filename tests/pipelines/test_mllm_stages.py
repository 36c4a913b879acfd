"""The stages label, questions and aspects under Ray, with a server in place of the engine."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.stage import RunContext
from fgvr import storage
from fgvr.config import ConfigError, build
from fgvr.mllm.label_worker import answer_seed
from fgvr.names.label_space import LabelSpace
from fgvr.sources.sampling import discovery_ids
from pipelines.run_tables import Run
from tests.untracked import NoTracking

sys.path.append(str(Path(__file__).parents[1] / "fgvr" / "mllm"))
from chat_server import ChatServer, Reply, completion, error, prompt_of, serving

pytestmark = pytest.mark.slow

ANSWERS = [*["Azure Finch"] * 4, "azure finch.", *["A Crimson Wren"] * 2, "I don't know."]


def image_of(body: dict[str, Any]) -> int:
    """A number that the pixels decide."""
    url = body["messages"][-1]["content"][0]["image_url"]["url"]
    return hashlib.sha256(url.encode()).digest()[0]


def model(body: dict[str, Any], _: int) -> Reply:
    """Names, refuses and answers yes or no by the pixels; writes questions when asked in text only."""
    if isinstance(body["messages"][-1]["content"], str):
        return completion("1. Is it blue?\n2. Is it red?\n3. Is it long?")
    if "Yes or No" in prompt_of(body):
        return completion("Yes", tops={"Yes": -0.1 - image_of(body) / 256, "No": -2.0})
    return completion(ANSWERS[image_of(body) % 8])


def flow(folder: Path, server: ChatServer, **more: Any) -> Run:
    mllm = {"kind": "openai", "base_url": server.url, "model": "m", "max_retries": 0}
    source = {"kind": "field_guide", "train_per_class": 2, "test_per_class": 1}
    tree: dict[str, Any] = {
        "ingest": {"source": source},
        "mllm": mllm,
        "run": {"max_error_share": 0.5},
        "label": {"images": {"per_class": 1}, "workers": {"rows_per_part": 10}, **more.pop("label", {})},
        "evaluate": {"methods": ["mllm"]},
        "aspects": {"max_images": 12, "instruction": "Yes or No.", "workers": {"rows_per_part": 5}},
        **more,
    }
    return Run(RunContext(build(tree), str(folder / "run"), NoTracking()))


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with serving(ChatServer(model)) as running:
        yield running


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, server: ChatServer, ray_session_of_two: None) -> Run:
    """A run whose labels are there."""
    made = flow(tmp_path_factory.mktemp("mllm"), server)
    made.table("labels")
    return made


def folder_of(first: Run) -> Path:
    return Path(first.context.folder).parent


def test_the_discovery_set_can_be_read_from_the_run(first: Run) -> None:
    samples = first.table("samples").read(["image_id", "split", "class_id"])
    images = first.context.config.label.images
    kept = first.table("labels").read(["image_id"])["image_id"].to_pylist()
    assert kept == discovery_ids([samples], images).tolist()
    rows = first.table("samples").take(np.array(kept), ["split", "class_id"]).to_pylist()
    assert {row["split"] for row in rows} == {"train"}
    assert sorted(row["class_id"] for row in rows) == list(range(36))  # one a species, failed answers included


def test_answers_become_a_label_space(first: Run) -> None:
    rows = first.table("labels").read().to_pylist()
    assert len(rows) == first.table("labels").rows == 36  # one image of each of 36 species
    space = LabelSpace.from_json(storage.read_bytes(first.table("labels").path("label_space.json")))
    assert space.labels == ("Azure Finch", "Crimson Wren")
    for row in rows:
        if row["raw"] == "I don't know.":
            assert row["error"]["reason"] == "refused"
            assert row["label"] is None is row["label_id"]
        else:
            assert row["label"] == ("Crimson Wren" if "Wren" in row["raw"] else "Azure Finch")
            assert space.labels[row["label_id"]] == row["label"]
    named = [row["label"] for row in rows if row["label"]]
    assert space.counts == (named.count("Azure Finch"), named.count("Crimson Wren"))
    assert first.table("labels").failures == {"refused": 36 - len(named)}
    assert first.table("labels").parts == 4


def test_edited_aliases_rename_without_asking_again(first: Run, server: ChatServer) -> None:
    edited = folder_of(first) / "aliases.csv"
    text = storage.read_bytes(first.table("labels").path("aliases.csv")).decode()
    edited.write_text(text.replace(",Crimson Wren,", ",Azure Finch,") + "I don't know,Mystery Bird,0\n")
    asked = len(server.asked)
    again = flow(folder_of(first), server, label={"aliases": str(edited)})
    space = LabelSpace.from_json(storage.read_bytes(again.table("labels").path("label_space.json")))
    assert space.labels == ("Azure Finch", "Mystery Bird")
    assert sum(space.counts) == 36
    assert len(server.asked) == asked
    assert again.table("labels").uri != first.table("labels").uri


def test_aliases_are_merged_listed_and_overruled(tmp_path: Path, ray_session_of_two: None) -> None:
    """Every third answer is "Mallard duck", the others "Mallard": a cosine of 0.82."""

    def ducks(_: dict[str, Any], number: int) -> Reply:
        return completion("Mallard" if number % 3 else "Mallard duck")

    with serving(ChatServer(ducks)) as server:
        apart = flow(tmp_path, server)
        merged = flow(tmp_path, server, label={"merge_similarity": 0.5})
        off = flow(tmp_path, server, label={"merge_similarity": None})
        names = [
            LabelSpace.from_json(storage.read_bytes(made.table("labels").path("label_space.json"))).labels
            for made in (apart, merged, off)
        ]
        assert names == [("Mallard", "Mallard duck"), ("Mallard",), ("Mallard", "Mallard duck")]
        assert len({made.table("labels").uri for made in (apart, merged, off)}) == 3
        table = storage.read_bytes(merged.table("labels").path("aliases.csv")).decode()
        assert "Mallard duck,Mallard,12\n" in table
        edited = tmp_path / "aliases.csv"
        edited.write_text(table.replace("Mallard duck,Mallard", "Mallard duck,Mallard duck"))
        again = flow(tmp_path, server, label={"merge_similarity": 0.5, "aliases": str(edited)})
        space = LabelSpace.from_json(storage.read_bytes(again.table("labels").path("label_space.json")))
        assert space == LabelSpace(("Mallard", "Mallard duck"), (24, 12))
        assert len(server.asked) == 36


def test_other_images_are_named_alike(first: Run) -> None:
    samples = first.table("samples").read(["image_id", "split"])
    ids = samples.filter(samples["split"].to_numpy() == "test")["image_id"].to_numpy()
    rows = first.table("eval_mllm").read(["image_id", "label", "error"]).to_pylist()
    assert [row["image_id"] for row in rows] == ids.tolist()
    assert {row["label"] for row in rows} <= {"Azure Finch", "Crimson Wren", None}


def test_several_answers_become_weighted_candidates_and_evaluation_asks_once(
    tmp_path: Path, ray_session_of_two: None
) -> None:
    """Each answer lists two names; which ones is decided by the answer's seed."""

    def lister(body: dict[str, Any], _: int) -> Reply:
        if "2 most likely" not in prompt_of(body):
            assert body["temperature"] == 0
            return completion("Robin")
        assert body["temperature"] == 0.7
        return completion("1. Azure Finch\n2. " + ("crimson wren" if body["seed"] % 2 else "Robin"))

    with serving(ChatServer(lister)) as server:
        made = flow(tmp_path, server, label={"samples": 3, "listed": 2, "temperature": 0.7})
        rows = made.table("labels").read().to_pylist()
        assert len(server.asked) == 3 * 36
        assert len({body["seed"] for body in server.asked}) == 3 * 36
        assert made.table("eval_mllm").rows == 36
        assert len(server.asked) == 4 * 36
    space = LabelSpace.from_json(storage.read_bytes(made.table("labels").path("label_space.json"))).labels
    assert space == ("Azure Finch", "Robin", "crimson wren")
    for row in rows:
        assert row["label"] == "Azure Finch"
        weights = dict(zip(row["candidate_ids"], row["candidate_weights"], strict=True))
        wrens = sum(label_seed % 2 for label_seed in seeds_of(row["image_id"]))
        expected = {0: 1 / 2, 2: wrens / 6, 1: (3 - wrens) / 6}
        assert weights == pytest.approx({name: weight for name, weight in expected.items() if weight})


def seeds_of(image_id: int) -> list[int]:
    return [answer_seed(0, image_id, number) for number in range(3)]


def test_a_second_run_finds_everything(first: Run, server: ChatServer) -> None:
    asked = len(server.asked)
    assert flow(folder_of(first), server).table("labels") == first.table("labels")
    assert len(server.asked) == asked


def test_the_field_guide_brings_its_own_questions(first: Run) -> None:
    rows = first.table("questions").read().to_pylist()
    assert rows[0] == {
        "question_id": 0,
        "text": "Is the body of the bird blue?",
        "rank": 1,
        "source": "field guide",
    }


def test_generated_questions_and_their_aspects(first: Run, server: ChatServer) -> None:
    llm = {"kind": "openai", "base_url": server.url, "model": "writer"}
    made = flow(folder_of(first), server, questions={"llm": llm, "generate": 3, "keep": 2, "subject": "birds"})
    assert made.table("questions").read(["text", "source"]).to_pylist() == [
        {"text": "Is it blue?", "source": "writer"},
        {"text": "Is it red?", "source": "writer"},
    ]
    text_prompts = [body for body in server.asked if isinstance(body["messages"][-1]["content"], str)]
    assert "36 classes and images of birds" in text_prompts[0]["messages"][-1]["content"]
    rows = made.table("aspects").read().to_pylist()
    assert (len(rows), made.table("aspects").parts) == (12, 3)
    assert all(len(row["p_yes"]) == 2 and 0.5 < row["p_yes"][0] < 1 for row in rows)
    assert made.table("aspects").extra["metrics"]["cached_share"] == pytest.approx(16 / 20)
    assert (folder_of(first) / "run").exists()
    assert b"1,Is it blue?,writer" in storage.read_bytes(made.table("questions").path("questions.csv"))


def test_without_true_classes_the_label_space_is_what_a_model_is_told(first: Run, server: ChatServer) -> None:
    llm = {"kind": "openai", "base_url": server.url, "model": "writer"}
    made = flow(folder_of(first), server, questions={"llm": llm, "generate": 3}, makd={"target": "near"})
    assert made.table("questions").rows == 3
    asked = [body for body in server.asked if isinstance(body["messages"][-1]["content"], str)]
    prompt = asked[-1]["messages"][-1]["content"]
    assert "2 classes and images of" in prompt
    assert "The class list is as follows: Azure Finch, Crimson Wren. Generate 3" in prompt
    assert asked[-1]["messages"][0]["role"] == "system"
    assert "You are a good question maker." in str(asked[-1]["messages"][0]["content"])


def test_a_file_of_questions_needs_no_model(first: Run, server: ChatServer) -> None:
    file = folder_of(first) / "q.txt"
    file.write_text("Is it old?\nIs it new?\n")
    made = flow(folder_of(first), server, questions={"file": str(file), "keep": 1})
    assert made.table("questions").read(["text"]).to_pylist() == [{"text": "Is it old?"}]


def test_without_any_source_of_questions_the_field_is_named(first: Run, server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    source = {"kind": "folder", "path": str(tmp_path / "photos")}
    with pytest.raises(ConfigError, match=r"set questions\.file, or questions\.llm"):
        _ = flow(tmp_path, server, ingest={"source": source}).table("questions")


def test_a_failing_server_fails_rows_and_a_retry_mends_them(tmp_path: Path, ray_session_of_two: None) -> None:
    """Every second request fails in the first run; the second run asks for these only."""
    failing = True

    def moody(body: dict[str, Any], number: int) -> Reply:
        return error(400, "not today") if failing and image_of(body) % 4 == 2 else model(body, number)

    with serving(ChatServer(moody)) as server:
        before = flow(tmp_path, server).table("labels")
        assert before.failures["request_rejected"] > 0
        asked = len(server.asked)
        failing = False
        after = flow(tmp_path, server, run={"max_error_share": 0.5, "retry_failed": True}).table("labels")
        assert "request_rejected" not in after.failures
        assert len(server.asked) == asked + before.failures["request_rejected"]
    good = {row["image_id"]: row for row in before.read().to_pylist() if row["error"] is None}
    assert json.dumps([row["raw"] for row in after.read().to_pylist() if row["image_id"] in good]) == json.dumps(
        [row["raw"] for row in good.values()]
    )
