import numpy as np
import pyarrow as pa
from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.report.cards import ExampleRows, build_cards, choose_examples
from fgvr.report.page import Candidate, Prediction


def test_half_of_the_examples_were_changed_by_training():
    labels = pa.table({"image_id": range(100), "label_id": [0] * 100})
    settled = pa.table({"image_id": range(100), "label_id": [1] * 30 + [0] * 60 + [None] * 10})
    chosen = choose_examples(labels, settled, 20, seed=0)
    assert len(set(chosen.tolist())) == 20
    assert chosen.tolist() == sorted(chosen.tolist())
    assert (chosen < 30).sum() >= 10
    assert choose_examples(labels, settled, 20, seed=0).tolist() == chosen.tolist()


def test_fewer_images_than_wanted():
    labels = pa.table({"image_id": [4, 7], "label_id": [0, None]})
    assert choose_examples(labels, labels, 24, seed=0).tolist() == [4, 7]


def test_cards(tmp_path):
    Image.new("RGB", (200, 200)).save(tmp_path / "a b.png")
    rows = ExampleRows(
        samples=pa.table(
            {
                "image_id": [3, 8],
                "uri": [f"{tmp_path}/a b.png", f"file://{tmp_path}/caf%E9.jpg"],
                "class_name": ["gull", None],
            }
        ),
        labels=pa.table({"image_id": [3], "raw": ["A Tern!"], "label": ["tern"]}),
        candidates=pa.table({"image_id": [3], "label_ids": [[1, 0, 2]], "weights": [[0.5, 0.25, 0.25]]}),
        disambiguated=pa.table({"image_id": [3], "label_ids": [[1, 0]], "weights": [[0.1, 0.9]]}),
        predictions={
            "near": pa.table({"image_id": [3, 8], "label": ["gull", None], "score": [0.9, None]}),
            "makd": pa.table({"image_id": np.array([], np.int64), "label": [], "score": []}),
        },
    )
    seen, failed = build_cards(rows, ["gull", "tern", "finch"], ImageLimits())
    assert (seen.title, seen.answer, seen.label, seen.true_name) == ("a b.png", "A Tern!", "tern", "gull")
    assert seen.thumbnail.startswith("data:image/jpeg")
    assert seen.candidates == [
        Candidate("gull", 0.25, 0.9),
        Candidate("finch", 0.25, None),
        Candidate("tern", 0.5, 0.1),
    ]
    assert seen.predictions == [Prediction("near", "gull", 0.9), Prediction("makd", "")]
    assert (failed.title, failed.thumbnail, failed.label, failed.candidates) == ("caf\ufffd.jpg", "", "", [])
    assert failed.problem.startswith("not_found")
