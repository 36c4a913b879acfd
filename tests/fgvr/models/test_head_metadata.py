"""Heads that see metadata beside vectors: saved, asked with and without, and never confused by what is missing."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from fgvr.config.metadata import Metadata
from fgvr.heads.beside import SHARE, Beside, Hiding, joined
from fgvr.heads.training import HeadRecipe
from fgvr.metadata.fitted import fit
from fgvr.models.from_features import scores_of
from fgvr.models.head import HeadModel, load_vector_classes
from fgvr.models.infer import ModelFolderError
from fgvr.models.learned_head import learn_heads, sets_of_labels


@pytest.mark.parametrize("kind", ["cosine", "linear", "mlp"])
def test_a_head_takes_from_metadata_what_vectors_do_not_say(tmp_path, kind):
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    vectors = np.eye(8, dtype=np.float32)[labels // 2] + rng.normal(0, 0.05, (400, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = {"kind": pa.array([("odd", "even")[label % 2] for label in labels])}
    columns = Metadata(columns={"kind": "category"})
    fitted, _ = fit(texts, columns)
    beside = Beside(fitted, fitted.encode(texts), columns)
    names = ["a", "b", "c", "d"]
    recipe = HeadRecipe(kind=kind, loss="ce")
    learned = learn_heads(vectors, labels, sets_of_labels(labels), names, None, recipe=recipe, beside=beside)
    HeadModel(learned.classes, None).save(tmp_path)
    classes = load_vector_classes(tmp_path)
    assert classes.columns == ("kind",)
    with_kind = classes.scores_with(vectors, texts)
    assert (with_kind.argmax(axis=1) == labels).mean() == 1
    alone = classes.scores(vectors)
    assert ((alone.argmax(axis=1) // 2) == labels // 2).mean() == 1
    missing = classes.scores_with(vectors, {"kind": pa.nulls(400, pa.string())})
    assert (missing == alone).all()
    part = scores_of(classes, vectors[100:150], texts, slice(100, 150))
    assert np.allclose(part, with_kind[100:150], atol=1e-6)
    file = tmp_path / "model.json"
    file.write_text(file.read_text().replace('"sources"', '"sauces"'))
    with pytest.raises(ModelFolderError, match="damaged"):
        load_vector_classes(tmp_path)


def test_hidden_columns_of_a_head_are_missing_ones():
    vectors = np.array([[0.6, 0.8]], np.float32)
    inputs = torch.from_numpy(joined(vectors, np.array([[2.0, 3.0, 0.0]], np.float32)))
    hidden = Hiding(2, (2,), 1.0, 0.0)(inputs)
    assert hidden.tolist() == [[pytest.approx(0.6), pytest.approx(0.8), 0, 0, SHARE]]
    assert torch.equal(Hiding(2, (2,), 0.0, 0.0)(inputs), inputs)
