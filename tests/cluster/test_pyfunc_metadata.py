"""Logged models with columns of metadata beside the photo: every form of input, and what is missing."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cluster.pyfunc import example, requirements
from cluster.pyfunc_model import ClassifierModel, InputError
from fgvr.config.metadata import FusedMetadata
from fgvr.metadata.fitted import fit
from fgvr.models.fused import StudentMetadata
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess


@pytest.fixture
def model(tmp_path):
    columns = FusedMetadata(columns={"price": "number", "brand": "category"}, dimensions=8)
    fitted, _ = fit({"price": pa.array(["1", "2", "3"]), "brand": pa.array(["a", "b", "a"])}, columns)
    metadata = StudentMetadata.of(fitted, columns)
    spec = StudentSpec("test_vit", ("x", "y", "z"), (), timm_preprocess("test_vit", 16), metadata=metadata)
    torch.manual_seed(0)
    save_student(tmp_path, spec, build_student(spec).state_dict(), {})
    made = ClassifierModel()
    made.load_context(SimpleNamespace(artifacts={"model": str(tmp_path)}))
    return made


def test_columns_stand_beside_the_image_in_every_form(model):
    image = Image.new("RGB", (16, 16), (200, 10, 10))
    given = {"image": [image, image], "price": [3.0, float("nan")], "brand": ["a", None]}
    frame = model.predict(None, pd.DataFrame(given))
    assert frame["score"][0] != frame["score"][1]
    records = [{"image": image, "price": np.int64(3), "brand": "a"}, {"image": image}]
    for other in (given, records):
        assert model.predict(None, other)["score"].tolist() == pytest.approx(frame["score"].tolist())
    alone = model.predict(None, [image])["score"][0]
    assert alone == pytest.approx(frame["score"][1])
    failed = model.predict(None, pd.DataFrame({"image": [None, image], "price": [1, 3], "brand": ["b", "a"]}))
    assert failed["score"][1] == pytest.approx(frame["score"][0])  # not that of the row before it
    with pytest.raises(InputError, match="1 values for 2 images"):
        model.predict(None, {"image": [image, image], "price": [1]})


def test_what_is_missing_is_said_once(model, caplog):
    image = Image.new("RGB", (16, 16))
    with caplog.at_level(logging.WARNING):
        model.predict(None, pd.DataFrame({"image": [image, image], "price": [1, None]}))
        model.predict(None, [image])
    assert [record.message for record in caplog.records if "missing" in record.message] == [
        "the model sees columns of metadata that are missing (price in 1 of 2, brand in 2 of 2): it does without there"
    ]


def test_the_example_and_requirements_name_what_is_needed():
    assert list(example(["price"]).columns) == ["image", "price"]
    assert list(example().columns) == ["image"]
    assert any(line.startswith("sentence-transformers==") for line in requirements("student", texts=True))
    assert not any(line.startswith("sentence-transformers") for line in requirements("student"))
