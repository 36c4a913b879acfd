"""Labels from files of answers, second prompts and second engines: tables, votes, checks and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.parts import TooManyFailures
from cluster.stage import RunContext
from fgvr.answers.given import AnswerFileError
from fgvr.config import ConfigError, as_given, build
from fgvr.mllm.openai_server.cache import with_run_replies
from fgvr.names.label_space import read_label_space
from pipelines.asks import asks
from pipelines.billing import billing
from pipelines.estimate import bill_of
from pipelines.evaluate import table_of, whole_job
from pipelines.photo_counts import Photos
from pipelines.preflight import check_tables
from pipelines.registry import stage_of
from pipelines.report_content import own_inputs
from pipelines.run_tables import Look, Run
from pipelines.stage import model_of
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

SIMULATED = {"kind": "simulated", "names": 5, "request_seconds": 0}
PHOTOS = 12


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A table of twelve photos, 00.jpg to 11.jpg; nothing opens them but simulated models, which need none."""
    (tmp_path / "photos.csv").write_text("uri,class_name\n" + "".join(f"{n:02d}.jpg,Gull\n" for n in range(PHOTOS)))
    return tmp_path / "photos.csv"


def tree(photos: Path, sources: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    label = {"sources": sources, "workers": {"rows_per_part": 5}, **more.pop("label", {})}
    return {"ingest": {"source": {"kind": "table", "path": str(photos)}}, "label": label, "mllm": SIMULATED, **more}


def run_of(folder: Path, tree: dict[str, Any]) -> Run:
    return Run(RunContext(build(tree), str(folder / "run"), NoTracking()))


def answers_file(folder: Path, lines: list[str], name: str = "answers.csv") -> str:
    (folder / name).write_text("\n".join(["uri,rank,answer,score", *lines]) + "\n")
    return str(folder / name)


def usual(folder: Path) -> str:
    """Two ranked answers about each photo, in words of a model; every third photo's are the other way round."""
    lines = []
    for n in range(PHOTOS):
        names = ["This is a Great Auk.", "herring gull"] if n % 3 else ["Herring Gull", "great auk"]
        lines += [
            f"{n:02d}.jpg,{rank},{name},{score}" for rank, name, score in zip((1, 2), names, (0.75, 0.25), strict=True)
        ]
    return answers_file(folder, lines)


def test_a_file_of_ranked_answers_becomes_labels_and_weighted_candidates(tmp_path: Path, photos: Path) -> None:
    run = run_of(tmp_path, tree(photos, [{"kind": "file", "path": usual(tmp_path)}]))
    labels, answers = run.table("labels"), run.table("answers")
    assert (answers.rows, answers.failed, answers.parts, labels.parts) == (PHOTOS, 0, 3, 3)
    space = read_label_space(labels)
    assert [name.casefold() for name in space.labels] == ["great auk", "herring gull"]
    for n, row in enumerate(labels.read().to_pylist()):
        first = 0 if n % 3 else 1
        assert (row["label_id"], row["candidate_ids"]) == (first, [first, 1 - first])
        assert row["candidate_weights"] == [0.75, 0.25]
        assert (row["prompt_tokens"], row["output_tokens"]) == (0, 0)
    assert answers.extra["metrics"]["file_rows"] == 2 * PHOTOS
    votes = run.table("votes").read().to_pylist()
    assert votes[:2] == [
        {"image_id": 0, "source": "file", "rank": 1, "label_id": 1, "score": 0.75},
        {"image_id": 0, "source": "file", "rank": 2, "label_id": 0, "score": 0.25},
    ]


def test_the_second_time_the_tables_are_there_and_an_edited_file_makes_others(tmp_path: Path, photos: Path) -> None:
    path = usual(tmp_path)
    config = tree(photos, [{"kind": "file", "path": path}])
    first, again = (run_of(tmp_path, config).table("labels") for _ in range(2))
    assert first.uri == again.uri
    Path(path).write_text(Path(path).read_text().replace("herring gull", "Tern"))
    other = run_of(tmp_path, config).table("labels")
    assert other.uri != first.uri
    assert "Tern" in read_label_space(other).labels


def test_photos_that_the_file_leaves_out_fail_and_too_many_of_them_stop_the_run(tmp_path: Path, photos: Path) -> None:
    path = answers_file(tmp_path, [f"{n:02d}.jpg,1,Gull,1" for n in range(4)])
    config = tree(photos, [{"kind": "file", "path": path}])
    with pytest.raises(TooManyFailures, match=r"not_in_file \(8\).*raise run\.max_error_share"):
        run_of(tmp_path, config).table("labels")
    labels = run_of(tmp_path, config | {"run": {"max_error_share": 0.9}}).table("labels")
    assert (labels.rows, labels.failures) == (PHOTOS, {"not_in_file": 8})


def test_several_sources_vote_in_one_label_space_and_the_first_gives_the_label(tmp_path: Path, photos: Path) -> None:
    old = answers_file(
        tmp_path, [f"{n:02d}.jpg,1,{'tern' if n % 2 else 'Gull'},1" for n in range(PHOTOS - 2)], "old.csv"
    )
    sources = [{"kind": "file", "path": usual(tmp_path)}, {"kind": "file", "name": "old", "path": old}]
    run = run_of(tmp_path, tree(photos, sources, run={"max_error_share": 0.5}))
    labels, votes = run.table("labels"), run.table("votes")
    space = [name.casefold() for name in read_label_space(labels).labels]
    assert space == ["great auk", "gull", "herring gull", "tern"]
    assert labels.read(["label_id"])["label_id"].to_pylist() == [0 if n % 3 else 2 for n in range(PHOTOS)]
    rows = votes.read().to_pylist()
    assert votes.extra["sources"] == ["file", "old"]
    assert len(rows) == 2 * PHOTOS + PHOTOS - 2
    assert [(r["source"], r["rank"], space[r["label_id"]], r["score"]) for r in rows if r["image_id"] == 1] == [
        ("file", 1, "great auk", 0.75),
        ("file", 2, "herring gull", 0.25),
        ("old", 1, "tern", 1.0),
    ]
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    assert run.table("answers_old").failures == {"not_in_file": 2}
    # Another second source leaves the first one's answers as they are.
    again = run_of(tmp_path, tree(photos, [sources[0]]))
    assert again.table("answers").uri == run.table("answers").uri
    assert again.table("labels").uri != labels.uri


def test_what_the_sources_say_together_is_the_label_where_the_config_says_so(tmp_path: Path, photos: Path) -> None:
    kinds = ["Gull", "Tern", "Auk"]
    truth = [kinds[n % 3] for n in range(PHOTOS)]
    said = {
        "often_wrong": [kinds[(n + (n % 2)) % 3] for n in range(PHOTOS)],  # every second one
        "good": truth,
        "silent": [truth[n] if n != 1 else "" for n in range(PHOTOS)],
    }
    sources = []
    for name, names in said.items():
        # The first source says nothing of photo 5, the last one nothing of photo 1.
        lines = [f"{n:02d}.jpg,1,{one},1" for n, one in enumerate(names) if one and (name, n) != ("often_wrong", 5)]
        sources.append({"kind": "file", "name": name, "path": answers_file(tmp_path, lines, f"{name}.csv")})
    given = tree(photos, sources, run={"max_error_share": 0.5})
    first = run_of(tmp_path, given).table("labels")
    run = run_of(tmp_path, tree(photos, sources, label={"combine": "reliability"}, run={"max_error_share": 0.5}))
    labels = run.table("labels")
    assert (first.failed, labels.failed) == (1, 0)
    assert labels.uri != first.uri
    rows = labels.read().to_pylist()
    assert [row["label"].title() for row in rows] == truth
    assert rows[5]["raw"] is None
    assert all(sum(row["candidate_weights"]) == pytest.approx(1) for row in rows)
    assert all(row["candidate_ids"][0] == row["label_id"] for row in rows)
    metrics = labels.extra["metrics"]
    assert metrics["right_often_wrong"] < 0.75 < metrics["right_good"]
    assert 0 < metrics["agrees_good"] < 0.75
    assert run.table("answers").failed == 1  # what each source said stays as it is
    assert run.table("votes").rows == 3 * PHOTOS - 2


def test_a_checked_photo_has_its_name_whatever_the_sources_say_together(tmp_path: Path, photos: Path) -> None:
    lines = [f"{n:02d}.jpg,1,{'Gull' if n % 2 else 'Tern'},1" for n in range(PHOTOS)]
    sources = [{"kind": "file", "name": n, "path": answers_file(tmp_path, lines, f"{n}.csv")} for n in ("one", "two")]
    (tmp_path / "checked.csv").write_text(f"uri,right_name\n{tmp_path}/03.jpg,Great Auk\n")
    label = {"combine": "reliability", "checked": str(tmp_path / "checked.csv")}
    labels = run_of(tmp_path, tree(photos, sources, label=label)).table("labels").read(["label"])["label"].to_pylist()
    assert labels[3] == "Great Auk"
    assert [name.title() for n, name in enumerate(labels) if n != 3] == [
        "Gull" if n % 2 else "Tern" for n in range(PHOTOS) if n != 3
    ]


def test_checked_photos_tell_which_of_two_sources_is_right(tmp_path: Path, photos: Path) -> None:
    """They always differ; half of the photos are checked, for the second."""
    said = {"one": ["Gull" if n % 2 else "Tern" for n in range(PHOTOS)]}
    said["two"] = ["Tern" if n % 2 else "Gull" for n in range(PHOTOS)]
    sources = []
    for name, names in said.items():
        lines = [f"{n:02d}.jpg,1,{one},1" for n, one in enumerate(names)]
        sources.append({"kind": "file", "name": name, "path": answers_file(tmp_path, lines, f"{name}.csv")})
    rows = [f"{tmp_path}/{n:02d}.jpg,{said['two'][n]}\n" for n in range(6)]
    (tmp_path / "checked.csv").write_text("uri,right_name\n" + "".join(rows))
    label = {"combine": "reliability", "checked": str(tmp_path / "checked.csv")}
    labels = run_of(tmp_path, tree(photos, sources, label=label)).table("labels")
    named = [name.title() for name in labels.read(["label"])["label"].to_pylist()]
    assert named == said["two"]
    assert labels.extra["metrics"]["right_two"] > 0.9
    assert labels.extra["metrics"]["right_one"] < 0.1


def test_where_no_source_names_anything_the_stage_says_so(tmp_path: Path, photos: Path) -> None:
    lines = [f"{n:02d}.jpg,1,I cannot tell.,1" for n in range(PHOTOS)]
    sources = [{"kind": "file", "name": n, "path": answers_file(tmp_path, lines, f"{n}.csv")} for n in ("one", "two")]
    with pytest.raises(TooManyFailures, match=r"labels: 12 of 12 rows failed \(refused \(12\)"):
        run_of(tmp_path, tree(photos, sources, label={"combine": "reliability"})).table("labels")


def test_too_many_images_to_combine_are_refused_before_they_are_paid_for(photos: Path) -> None:
    sources = [{"kind": "ask", "name": name} for name in ("one", "two")]
    label = {"combine": "reliability", "images": {"max_images": 2_000_000}}
    with pytest.raises(ConfigError, match=r"max_images = 2,000,000: label\.combine = reliability takes at most 1,000,"):
        stage_of("labels").check(build(tree(photos, sources, label=label)))


def test_the_mllm_alone_is_compared_whatever_others_say(tmp_path: Path, photos: Path) -> None:
    lines = [f"{n:02d}.jpg,1,{'Gull' if n % 2 else 'Tern'},1" for n in range(PHOTOS)]
    sources = [{"kind": "file", "name": n, "path": answers_file(tmp_path, lines, f"{n}.csv")} for n in ("one", "two")]
    assert table_of(run_of(tmp_path, tree(photos, sources)), "mllm") == "labels"
    combined = run_of(tmp_path, tree(photos, sources, label={"combine": "reliability"}))
    assert table_of(combined, "mllm") == "eval_mllm"
    assert combined.table("eval_mllm").rows == PHOTOS


def test_one_source_cannot_be_combined(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"combine = reliability: it needs several sources.*label\.sources"):
        build({"label": {"combine": "reliability", "sources": [{"kind": "ask"}]}})


def test_a_second_prompt_and_a_second_engine_ask_by_themselves(tmp_path: Path) -> None:
    source = {"kind": "field_guide", "train_per_class": 1, "test_per_class": 1}
    sources = [
        {"kind": "ask", "name": "plain"},
        {"kind": "ask", "name": "other", "prompt": "Which species?", "mllm": {**SIMULATED, "seed": 7, "accuracy": 0}},
    ]
    config = {
        "ingest": {"source": source},
        "label": {"images": {"max_images": 9}, "sources": sources},
        "mllm": SIMULATED,
    }
    run = run_of(tmp_path, config)
    votes = run.table("votes")
    assert votes.extra["sources"] == ["plain", "other"]
    assert votes.rows == 18
    alone = run_of(tmp_path, {**config, "label": {"images": {"max_images": 9}}})
    assert alone.table("answers").uri == run.table("answers").uri
    assert run.table("answers_other").extra["metrics"]["output_tokens"] > 0


def test_a_plan_counts_what_each_source_asks_and_a_file_asks_nothing(tmp_path: Path, photos: Path) -> None:
    server = {"kind": "openai", "model": "big", "base_url": "http://gpu:8000/v1"}
    config = build(
        tree(
            photos,
            [
                {"kind": "file", "path": usual(tmp_path)},
                {"kind": "ask", "name": "big", "mllm": server, "listed": 3, "workers": {"max_workers": 7}},
                {"kind": "ask", "name": "own"},
            ],
        )
    )
    look = Look(config, str(tmp_path / "none"), Photos({"train": PHOTOS}))
    found = {ask.stage: ask for ask in asks(look, ["votes"])}
    assert list(found) == ["answers_big", "answers_own"]
    assert (found["answers_big"].rows, found["answers_big"].row.output) == (PHOTOS, 96)
    assert (found["answers_big"].model.kind, found["answers_big"].workers.max_workers) == ("openai", 7)
    assert (found["answers_own"].model.kind, found["answers_own"].row.output) == ("simulated", 32)
    assert model_of(stage_of("answers"), config) is None
    assert [line.ask.stage for line in bill_of(look, ["votes"]).lines] == ["answers_big", "answers_own"]
    assert billing(config).models["answers_big"] == "big"
    assert "answers" not in billing(config).models
    assert "votes" in whole_job(config)
    kept = with_run_replies(config, str(tmp_path)).label.sources[1]
    assert "replies" in str(getattr(getattr(kept, "mllm", None), "reply_cache", None))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"sources": [{"kind": "ask"}, {"kind": "ask"}]}, r"label.*: sources: two are called model"),
        ({"sources": [{"path": "a.csv"}]}, r"^label\.sources\.0\.kind: required, 'file' or 'ask'$"),
        ({"sources": [{"kind": "file"}]}, r"^label\.sources\.0\.path: required"),
        ({"sources": [{"kind": "file", "path": "a.csv", "name": "Old labels"}]}, r"label\.sources\.0.*name"),
        (
            {"sources": [{"kind": "file", "path": "a.csv"}], "duplicate_similarity": 0.9},
            r"duplicate_similarity: it saves",
        ),
        ({"sources": [{"kind": "ask", "samples": 3}]}, r"samples = 3 needs a temperature .*source model"),
        (
            {"sources": [{"kind": "ask", "mllm": {"kind": "openai", "model": "m", "base_url": "gpu"}}]},
            r"sources\.0\.mllm\.base_url",
        ),
        ({"sources": [{"kind": "files"}]}, r"^label\.sources\.0\.kind = 'files': should be 'file' or 'ask'$"),
        (
            {"sources": [{"kind": "file", "pth": "a"}]},
            r"0\.pth: .* did you mean label\.sources\.0\.path\?",
        ),
        (
            {"sources": [{"kind": "file", "path": "a.csv", "colum": "x"}]},
            r"^label\.sources\.0\.colum: there is no",
        ),
    ],
)
def test_sources_that_cannot_be(label: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"label": label})


def test_one_pass_with_aspects_has_one_prompt() -> None:
    with pytest.raises(ConfigError, match=r"label\.sources: with aspects\.with_labels"):
        build({"label": {"sources": [{"kind": "ask"}]}, "aspects": {"with_labels": True}})


def test_a_file_that_cannot_be_read_is_found_before_the_start(tmp_path: Path, photos: Path) -> None:
    for sources, message in (
        ([{"kind": "file", "path": str(tmp_path / "none.csv")}], r"label\.sources\.0\.path = .*there is no such file"),
        ([{"kind": "ask"}, {"kind": "file", "path": str(photos)}], r"label\.sources\.1\.answer_column = answer"),
    ):
        with pytest.raises(AnswerFileError, match=message):
            check_tables(build(tree(photos, sources)), ["labels"])


def test_a_saved_config_does_not_ask_for_columns_that_nobody_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri,answer\n")
    config = build({"label": {"sources": [{"kind": "file", "path": str(tmp_path / "a.csv"), "uri_column": "uri"}]}})
    saved = as_given(config)["label"]["sources"][0]
    assert {name for name in saved if name.endswith("_column")} == {"uri_column"}
    again = build(as_given(config))
    assert again.label.sources == config.label.sources
    stage_of("answers").check(again)


def test_the_report_says_where_labels_and_vectors_come_from() -> None:
    sources = [{"kind": "file", "path": "/data/old labels.csv"}, {"kind": "ask", "name": "big", "mllm": SIMULATED}]
    vectors = {"kind": "timm", "model": "hf-hub:timm/net"}
    config = build({"label": {"sources": sources}, "embed": {"vectors": vectors}})
    assert own_inputs(config) == [
        ("Label sources, the first gives the label", "file (old labels.csv); big (simulated)"),
        ("Vectors", "net"),
    ]
    assert own_inputs(build({"embed": {"vectors": {"kind": "file", "path": "s3://b/v.npz"}}})) == [
        ("Vectors", "of the file v.npz")
    ]
    assert own_inputs(build({})) == []


def test_the_labeller_itself_is_compared_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text("uri,split,class_name\na.jpg,train,Gull\nb.jpg,test,Gull\nc.jpg,test,Tern\n")
    path = answers_file(tmp_path, ["a.jpg,1,Gull,1", "b.jpg,1,Gull,0.5", "b.jpg,2,Tern,0.5", "c.jpg,1,Tern,1"])
    config = tree(tmp_path / "photos.csv", [{"kind": "file", "path": path}], evaluate={"methods": ["mllm"]})
    named = run_of(tmp_path, config).table("eval_mllm").read().to_pylist()
    assert [(row["image_id"], row["label"]) for row in named] == [(1, "Gull"), (2, "Tern")]
