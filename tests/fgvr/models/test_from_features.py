import numpy as np
import pytest
import torch

from fgvr import tables
from fgvr.clip.vectors import embedding_rows
from fgvr.models.from_features import predictions_from_features
from fgvr.models.near import ClassFeatures
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table


@pytest.fixture
def embeddings(tmp_path) -> Table:
    """Images 0 and 3 look along the axes, 2 between them, 1 failed."""
    features = np.array([[1, 0], [0, 0], [0.6, 0.8], [0, 1]], np.float32)
    failures = [None, Failure(Reason.CORRUPT, "x"), None, None]
    tables.write_part(str(tmp_path), 0, embedding_rows(np.arange(4), features, failures))
    return Table(str(tmp_path), "embeddings", "f", rows=4, failed=1, parts=1, rows_per_part=4, seconds=1)


def test_softmax_of_scaled_cosines(embeddings):
    classes = ClassFeatures(("east", "north"), np.eye(2, dtype=np.float32), logit_scale=10.0)
    rows = predictions_from_features(embeddings, np.array([3, 1, 2]), classes, abstain_below=0.9).to_pylist()
    assert [row["image_id"] for row in rows] == [3, 1, 2]
    assert [row["label"] for row in rows] == ["north", None, "north"]
    assert rows[0]["score"] == pytest.approx(1 / (1 + np.exp(-10)), abs=1e-6)
    expected = torch.tensor([6.0, 8.0]).softmax(0)  # 0.119, 0.881
    assert rows[2]["top_labels"] == ["north", "east"]
    assert rows[2]["top_scores"] == pytest.approx([expected[1].item(), expected[0].item()], abs=2e-3)  # fp16 vectors
    assert [row["abstained"] for row in rows] == [False, None, True]
    assert rows[1]["error"]["reason"] == "no_input"


def test_no_images(embeddings):
    classes = ClassFeatures(("east",), np.ones((1, 2), np.float32), logit_scale=10.0)
    assert predictions_from_features(embeddings, np.array([], np.int64), classes).num_rows == 0
