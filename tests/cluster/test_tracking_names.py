"""Texts as names in MLflow and Prometheus, checked against MLflow's own validation."""

import itertools

import pytest
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    _validate_metric_name,
    _validate_param_name,
    _validate_tag_name,
)

from cluster.tracking_names import (
    RENAMED_TAG,
    artifact_path,
    experiment_name,
    flat,
    good_name,
    label,
    named,
    names_tag,
    run_name,
)

TEXTS = [
    "s3://bucket/list.csv",
    "/data/list (1).csv",
    "/data/a+b.csv",
    "what's.csv",
    "list,v2.csv",
    "a&b/list.csv",
    "/data//list.csv",
    "~/list.csv",
    "",
    " ",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/",
    "minilm@6fafbb27",
    "鳥/米.csv",
    "café",
    "cafe\u0301",
    "x" * 400,
    "x" * 399 + "y",
    '[a]{b}"c"\n\0',
    "file\udcff.jpg",
    "a\\b",
    " padded ",
    "a: b",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_whatever_the_text_mlflow_takes_its_name(text: str) -> None:
    name = good_name(text)
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(name)
    assert 0 < len(name) <= MAX_ENTITY_KEY_LENGTH
    assert good_name(text) == name
    assert good_name(name) != name or name == text  # a made name is no text's own
    assert name.encode("ascii")


def test_two_texts_have_two_names() -> None:
    names = [good_name(text) for text in TEXTS]
    assert len(set(names)) == len(TEXTS)
    assert len({good_name(f"a{sign}b") for sign in "@+,()&'~/\\:"}) == 11


@pytest.mark.parametrize("text", ["rows", "failed.too_large", "near.sacc.all-MiniLM-L6-v2", "images per_second", "_x"])
def test_a_good_name_stays(text: str) -> None:
    assert good_name(text) == text


def test_what_a_name_stands_for_is_kept() -> None:
    values, renamed = named([("rows", 1), ("a@b", 2), ("a+b", 3), ("rows", 4)])
    assert sorted(values.values()) == [1, 2, 3, 4]  # none is lost, of equal texts neither
    assert values["rows"] == 1
    assert set(renamed.values()) == {"a@b", "a+b", "rows"}
    (tag,) = names_tag(renamed).values()
    assert "= a@b" in tag
    assert names_tag({}) == {}
    assert names_tag(renamed).keys() == {RENAMED_TAG}


def test_parameters_are_nested_values_with_dots_and_without_secrets() -> None:
    pairs = flat({"images": {"split": "train", "seen": [1, 2]}, "api_key": "abc", "a.b": 1, "a": {"b": 2}, "none": {}})
    assert pairs == [
        ("images.split", "train"),
        ("images.seen", "[1, 2]"),
        ("api_key", "***"),
        ("a.b", "1"),
        ("a.b", "2"),
    ]
    assert list(named(pairs)[0].values()) == ["train", "[1, 2]", "***", "1", "2"]
    assert flat("x\0y") == [("value", "x�y")]
    assert len(flat({"long": "y" * 9000})[0][1]) == 500
    many = flat({str(n): n for n in range(5000)})
    assert len(many) == 1001
    assert many[-1][1].startswith("4,000 more")


def test_titles_and_labels_have_a_length_and_are_never_empty() -> None:
    assert run_name("birds of 2026 (new)") == "birds of 2026 (new)"
    assert run_name(" \0\n") != ""
    assert len(run_name("r" * 999)) == 250
    assert run_name("r" * 999) != run_name("r" * 998 + "s")
    assert len(experiment_name("e" * 999)) == 500
    assert experiment_name("") == "unnamed"
    assert label('stage "one"\nline') == 'stage "one" line'
    assert len(label("l" * 999)) == 128


@pytest.mark.parametrize("text", ["/etc/passwd", "../../x", "a//b", "", "ok/file.html", "鳥.csv"])
def test_artifacts_stay_below_their_run(text: str) -> None:
    pieces = artifact_path(text).split("/")
    assert all(piece and piece not in {".", ".."} for piece in pieces)
    assert artifact_path("ok/file.html") == "ok/file.html"
    assert all(a != b for a, b in itertools.pairwise([artifact_path("a@b"), artifact_path("a+b")]))
