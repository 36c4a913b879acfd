import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fgvr import schemas
from fgvr.clip.model import load_clip
from fgvr.config import Clip, ImageLimits
from fgvr.encoders.embed_worker import EmbedWorker
from fgvr.tables import vectors


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Seven images, the third of them damaged and the fifth missing."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    uris = []
    for number in range(7):
        uris.append(str(folder / f"{number}.png"))
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(uris[-1])
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:500])
    (folder / "4.png").unlink()
    return pa.table({"image_id": pa.array(range(10, 17), pa.int64()), "uri": uris})


def worker(clip_folder, **arguments):
    arguments = {"batch_images": 3, "threads": 2} | arguments
    return EmbedWorker(encoder=Clip(model=str(clip_folder)), limits=ImageLimits(), device="cpu", **arguments)


@pytest.mark.parametrize("threads", [0, 2])
def test_every_row_comes_back_with_its_vector_or_its_reason(clip_folder, rows, threads):
    table = worker(clip_folder, threads=threads).process(rows)
    assert table.schema.equals(schemas.embeddings(24))
    assert table["image_id"].to_pylist() == list(range(10, 17))
    reasons = [error and error["reason"] for error in table["error"].to_pylist()]
    assert reasons == [None, None, "corrupt", None, "not_found", None, None]
    good = [place for place, reason in enumerate(reasons) if reason is None]
    images = [Image.open(rows["uri"][place].as_py()) for place in good]
    expected = load_clip(Clip(model=str(clip_folder))).encode_images(images)
    np.testing.assert_allclose(vectors(table["vector"].take(pa.array(good))), expected, atol=1e-3)


def test_batches_do_not_change_vectors(clip_folder, rows):
    one, all_at_once = (worker(clip_folder, batch_images=size).process(rows) for size in (1, 7))
    good = pa.array([0, 1, 3, 5, 6])
    first, second = (vectors(table["vector"].take(good)) for table in (one, all_at_once))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_views_depend_on_seed_and_image_alone(clip_folder, rows):
    first = worker(clip_folder, views=2, seed=3).process(rows)
    assert first.schema.metadata[b"dim"] == b"48"
    assert first["error"].to_pylist()[4]["reason"] == "not_found"
    again = worker(clip_folder, views=2, seed=3).process(rows.slice(5, 2))
    other = worker(clip_folder, views=2, seed=4).process(rows.slice(5, 2))
    tail = vectors(first["vector"].slice(5, 2))
    np.testing.assert_allclose(vectors(again["vector"]), tail, atol=1e-3)
    assert not np.allclose(vectors(other["vector"]), tail, atol=1e-3)
    halves = tail.reshape(2, 2, 24).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(halves, axis=2), 1.0, atol=2e-3)


def test_features_that_are_not_finite_fail_their_row_only(clip_folder, rows, monkeypatch):
    embedder = worker(clip_folder)
    encode = embedder.encoder.encode_pixels

    def broken(pixels):
        features = encode(pixels)
        features[0] = float("nan")
        return features

    monkeypatch.setattr(type(embedder.encoder), "encode_pixels", lambda _, pixels: broken(pixels))
    table = embedder.process(rows.slice(5, 2))
    assert [error and error["reason"] for error in table["error"].to_pylist()] == ["engine_error", None]
