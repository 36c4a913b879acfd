"""What the logged model's code takes and answers, without logging it; test_pyfunc.py does both."""

import base64
import io
import json
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.pyfunc.scoring_server import infer_and_parse_data, parse_csv_input, predictions_to_json
from PIL import Image

from cluster.pyfunc_model import PATHS_VARIABLE, ClassifierModel, InputError
from fgvr.models.infer import load_classifier
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess

PHOTO = Image.fromarray(np.random.default_rng(7).integers(0, 256, (40, 56, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ClassifierModel:
    folder = tmp_path_factory.mktemp("model")
    spec = StudentSpec("test_byobnet", ("b", "Rötel", "c"), (), timm_preprocess("test_byobnet", 32))
    torch.manual_seed(3)
    save_student(folder, spec, build_student(spec).state_dict(), {})
    loaded = ClassifierModel()
    loaded.classifier = load_classifier(folder)
    return loaded


@pytest.fixture(autouse=True)
def _in_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever servers other tests of this process have imported."""
    monkeypatch.setattr("cluster.pyfunc_model._SERVERS", frozenset())


@pytest.fixture
def in_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")


def png(image: Image.Image = PHOTO) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def text(data: bytes | None = None) -> str:
    return base64.b64encode(png() if data is None else data).decode()


def answers(model: ClassifierModel, given: Any) -> list[tuple[Any, float, Any]]:
    return list(model.predict(None, given).itertuples(index=False, name=None))


def expected(model: ClassifierModel) -> tuple[str, float]:
    scores = model.classifier.scores([PHOTO])[0]
    return model.classifier.labels[int(scores.argmax())], float(scores.max())


def image_values(folder: Path) -> list[Any]:
    """One photo in every form of one image."""
    file = folder / "möwe 1.png"
    file.write_bytes(png())
    turned = PHOTO.transpose(Image.Transpose.ROTATE_90)  # exif 6: to be turned clockwise
    turned.getexif()[0x0112] = 6
    return [
        png(),
        bytearray(png()),
        memoryview(png()),
        np.bytes_(png()),
        text(),
        np.str_(text()),
        text().rstrip("="),
        text().encode(),
        base64.encodebytes(png()).decode(),
        base64.urlsafe_b64encode(png()).decode(),
        "data:image/png;base64," + text(),
        "DATA:;BASE64," + text(),
        "data:image/png," + urllib.parse.quote_from_bytes(png()),
        {"b64": text()},
        file,
        str(file),
        file.as_uri(),
        PHOTO,
        Image.open(io.BytesIO(png())),
        PHOTO.convert("RGBA"),
        turned,
    ]


def test_one_image_in_every_form(model: ClassifierModel, tmp_path: Path) -> None:
    label, score = expected(model)
    values = image_values(tmp_path)
    assert answers(model, values) == [(label, pytest.approx(score, abs=1e-6), None)] * len(values)
    for value in values:
        assert answers(model, value) == [(label, pytest.approx(score, abs=1e-6), None)]


def test_many_images_in_every_form(model: ClassifierModel) -> None:
    label, _ = expected(model)
    two = [png(), text()]
    forms = [
        two,
        tuple(two),
        np.array(two, dtype=object),
        np.array([[text()], [text()]]),
        pd.Series(two),
        {"image": two},
        {"photo": pd.Series(two)},
        pd.DataFrame({"image": two}),
        pd.DataFrame({"price": [1, 2], "image": two}),
        pd.DataFrame({"photo": two}),
        [{"image": png(), "price": 1}, {"image": text()}],
    ]
    for form in forms:
        result = model.predict(None, form)
        assert result["label"].tolist() == [label, label]
        assert result["score"].dtype == np.float32
    none = model.predict(None, [])
    assert list(none.columns) == ["label", "score", "error"]
    assert len(none) == 0


def test_the_index_of_a_frame_and_of_a_series_is_kept(model: ClassifierModel) -> None:
    index = pd.Index(["x", "y", "x"], name="key")
    assert model.predict(None, pd.DataFrame({"image": [png()] * 3}, index=index)).index.equals(index)
    assert model.predict(None, pd.Series([png(), None], index=[9, 4])).index.tolist() == [9, 4]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", "  ", b""])
def test_a_missing_value_costs_one_row(model: ClassifierModel, missing: object) -> None:
    label, _ = expected(model)
    for form in ([png(), missing, png()], pd.DataFrame({"image": pd.Series([png(), missing, png()], dtype=object)})):
        first, lost, last = answers(model, form)
        assert first[0] == last[0] == label
        assert lost[0] is None
        assert np.isnan(lost[1])
        assert lost[2] == "no_input: no image was given"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"no image at all", "not_an_image: "),
        (text(b"no image at all, however long the text may be"), "not_an_image: "),
        (png()[:60], "corrupt: "),
        ("photos/gone.jpg", "not_found: there is nothing at photos/gone.jpg"),
        (Path("gone.jpg"), "not_found: "),
        ("gone", "not_found: "),
        ("x" * 5000 + "!", "not_an_image: text that is no base64 of a file: 'xxx"),
        ("http://169.254.169.254/latest/meta-data", "not_allowed: "),
        ("ftp://example.org/a.jpg", "not_allowed: "),
        ("photo\0.jpg", "unreadable: "),
        (Image.new("RGB", (1, 900)), "too_many_pixels: "),
    ],
)
def test_an_image_that_cannot_be_had_costs_one_row(model: ClassifierModel, value: object, reason: str) -> None:
    good, lost = answers(model, [png(), value])
    assert good[2] is None
    assert lost[0] is None
    assert lost[2].startswith(reason)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([png(), 5], r"row 1: an image must be the bytes of an image file, .* not int"),
        ([[1, 2]], "not list"),
        (np.zeros((8, 8, 3), np.uint8), "does not say which channel is red"),
        (pd.DataFrame({"a": [png()], "b": [png()]}), r"one column must be called 'image' .* there are \['a', 'b'\]"),
        (pd.DataFrame([[png(), png()]], columns=["image", "image"]), "one column must be called 'image'"),
        ({}, "one column must be called 'image'"),
    ],
)
def test_a_wrong_type_is_an_error_that_says_what_is_wanted(model: ClassifierModel, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        model.predict(None, given)
    assert isinstance(caught.value, TypeError)
    assert caught.value.get_http_status_code() == 400


def served(model: ClassifierModel, request: dict[str, Any]) -> list[dict[str, Any]]:
    """A request through MLflow's own parser and writer of JSON, as its scoring server does it."""
    sink = io.StringIO()
    predictions_to_json(model.predict(None, infer_and_parse_data(json.loads(json.dumps(request)))), sink)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    rows: list[dict[str, Any]] = json.loads(sink.getvalue(), parse_constant=refuse)["predictions"]
    return rows


@pytest.mark.usefixtures("in_a_server")
def test_every_form_of_a_request_is_answered_with_the_same_json(model: ClassifierModel) -> None:
    label, score = expected(model)
    good = {"label": label, "score": pytest.approx(score, abs=1e-6), "error": None}
    image, broken = text(), text(b"no image, but long enough to be base64 of one")
    for images in ([image], [image, broken], [broken], [image, None, broken, image]):
        rows = [{"image": value} for value in images]
        requests: list[dict[str, Any]] = [
            {"dataframe_split": {"columns": ["image"], "data": [[value] for value in images]}},
            {"dataframe_split": {"columns": ["image"], "index": [7] * len(images), "data": [[v] for v in images]}},
            {"dataframe_split": {"data": [[value] for value in images]}},
            {"dataframe_records": rows},
            {"instances": images},
            {"instances": rows},
            {"instances": [{"image": value and {"b64": value}} for value in images]},
            {"inputs": images},
            {"inputs": {"image": images}},
        ]
        if None not in images:
            requests.append({"instances": [{"b64": value} for value in images]})
        if len(images) == 1:
            requests += [{"inputs": {"image": images[0]}}, {"inputs": images[0]}]
        for request in requests:
            found = served(model, request)
            assert len(found) == len(images)
            for row, value in zip(found, images, strict=True):
                if value == image:
                    assert row == good
                else:
                    assert row["label"] is row["score"] is None
                    assert row["error"].startswith("no_input" if value is None else "not_an_image")
    rows_of_csv = model.predict(None, parse_csv_input(io.StringIO(f"image\n{image}\n{image}\n")))
    assert rows_of_csv["label"].tolist() == [label, label]


@pytest.mark.usefixtures("in_a_server")
def test_a_client_of_a_server_cannot_choose_what_it_reads(
    model: ClassifierModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "private.png"
    file.write_bytes(png())
    bare = tmp_path / "private"  # its path is base64, too, but for a dash or a dot in the folders above it
    bare.write_bytes(png())
    monkeypatch.chdir(tmp_path)
    for path in (str(file), file.as_uri(), "private", "http://127.0.0.1:9/a.png", "s3://bucket/a.png", "/etc/passwd"):
        (row,) = served(model, {"instances": [path]})
        assert row["label"] is None
        assert row["error"].startswith("not_an_image")
    assert "paths and addresses are not read here" in served(model, {"inputs": [str(file)]})[0]["error"]
    monkeypatch.setenv(PATHS_VARIABLE, "1")
    assert served(model, {"instances": [str(file)]})[0]["label"] == expected(model)[0]


def test_a_program_may_forbid_paths(model: ClassifierModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png())
    monkeypatch.setenv(PATHS_VARIABLE, "0")
    (row,) = answers(model, str(file))
    assert row[2].startswith("not_an_image")
