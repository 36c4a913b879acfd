"""What NeaR's training makes of its tables: rows that are left out, odd label spaces, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from fgvr.candidates.sets import CandidateSets, candidate_rows, disambiguate, single_sets
from fgvr.clip.vectors import embedding_rows
from fgvr.errors import UserError
from fgvr.tables import Table
from fgvr.training.prompt_data import read_near_data, read_weights
from tests.fgvr.training.near_discovery import Discovery, run

pytestmark = pytest.mark.usefixtures("one_thread")


def test_views_are_shown_and_missing_ones_replaced(discovery, tmp_path):
    views = np.hstack([discovery.features[::-1], discovery.features])
    rows = embedding_rows(discovery.ids, views, [None] * len(views))
    discovery.table("views", rows.slice(1))  # the first image's views failed
    job = discovery.job(views=str(discovery.folder / "views"), epochs=2)
    data = read_near_data(job, rank=0, world_size=1)
    half = torch.from_numpy(discovery.features).half()
    assert data.features.shape == (60, 3, 24)
    assert torch.equal(data.features[1:, 1], half.flip(0)[1:])
    assert torch.equal(data.features[0], half[0].expand(3, -1))
    assert run(job, tmp_path / "run").history[-1]["step"] == 8


def test_shares_of_workers_make_the_whole(discovery):
    whole = read_near_data(discovery.job(), rank=0, world_size=1)
    shares = [read_near_data(discovery.job(), rank, 4) for rank in range(4)]
    assert [share.first for share in shares] == [0, 15, 30, 45]
    for name in ("features", "label_ids", "weights", "own"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


def test_images_without_candidates_are_left_out(discovery, tmp_path):
    sets = CandidateSets(discovery.sets.label_ids.copy(), discovery.sets.weights.copy())
    sets.label_ids[5:10], sets.weights[5:10] = -1, 0
    near = np.arange(60)[:, None]
    discovery.table(
        "candidates", candidate_rows(discovery.ids, discovery.ids[near], np.ones((60, 1), np.float32), sets)
    )
    data = read_near_data(discovery.job(), rank=0, world_size=1)
    assert data.total == len(data) == 55
    reporter = run(discovery.job(epochs=1), tmp_path / "run")
    table = disambiguate(Table.load(discovery.job().candidates).read(), read_weights(reporter.checkpoint))
    assert table["label_id"].to_pylist()[5:10] == [None] * 5
    assert table["label_id"].null_count == 5


def test_a_label_space_of_one_name_trains(tmp_path, clip_folder):
    discovery = Discovery(tmp_path / "tables", clip_folder, ["Teal", "Dusky Wren"])
    discovery.own[:] = 0
    discovery.names = ["Teal"]
    sets = single_sets(np.zeros(24, np.int32))
    discovery._write(candidate_rows(discovery.ids, discovery.ids[:, None], np.ones((24, 1), np.float32), sets))
    reporter = run(discovery.job(epochs=2), tmp_path / "run")
    assert reporter.history[-1]["loss"] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(read_weights(reporter.checkpoint), 1.0)


def test_names_that_do_not_fit_are_recorded_in_the_model(tmp_path, clip_folder, caplog):
    long = " ".join(["Teal"] * 200)
    discovery = Discovery(tmp_path / "tables", clip_folder, ["Dusky Wren", long])
    reporter = run(discovery.job(epochs=1), tmp_path / "run")
    content = json.loads((reporter.checkpoint / "model" / "model.json").read_text())
    assert content["facts"]["shortened_names"] == [long]
    assert content["labels"] == ["Dusky Wren", long]
    assert "1 names are too long for the text tower and were shortened" in caplog.text


def test_a_rate_that_explodes_is_named(discovery, tmp_path):
    with pytest.raises(UserError, match=r"loss is nan.*lower near\.lr"):
        run(discovery.job(epochs=60, lr=1e38, momentum=0.9), tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_named(discovery, tmp_path, value):
    discovery.features[7, 3] = value
    discovery.table("embeddings", embedding_rows(discovery.ids, discovery.features, [None] * 60))
    with pytest.raises(UserError, match=r"1 images in the table embeddings are no numbers.*first is image 107"):
        run(discovery.job(), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_training(discovery, tmp_path, monkeypatch):
    from fgvr.training.prompt_scores import NearScores

    plain = NearScores.logits
    monkeypatch.setattr(NearScores, "logits", lambda self, *args: plain(self, *args) * torch.tensor(float("nan")))
    with pytest.raises(UserError, match="loss is nan"):
        run(discovery.job(loss="cavl"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_no_candidates_at_all_is_named(discovery, tmp_path):
    none = CandidateSets(np.full((60, 1), -1, np.int32), np.zeros((60, 1), np.float32))
    discovery.table(
        "candidates", candidate_rows(discovery.ids, discovery.ids[:, None], np.ones((60, 1), np.float32), none)
    )
    with pytest.raises(UserError, match="0 images have candidates"):
        run(discovery.job(), tmp_path / "run")
