import pytest
import torch
from torch.testing import assert_close

from fgvr.clip.text_tower import Packing, TextTower, UnsupportedTextTowerError

TEXTS = ["a photo of a Teal.", "Great Black-backed Gull", "a", "a photo of a Crested Azure Finch."]


def encoded(tower, ids, skipped=0, prefix=None):
    """Token ids [C, L] without the first `skipped` of each row and what follows its end."""
    packing = Packing.of(tower.end_of_text(ids) + 1 - skipped)
    return tower.encode(
        tower.token_embedding(packing.pack(ids[:, skipped : skipped + packing.longest])), packing, prefix
    )


def test_text_cut_behind_its_end_is_encoded_as_open_clip_encodes_all_of_it(clip, tower):
    model, tokenizer = clip
    ids = tokenizer(TEXTS)
    assert len(set(tower.end_of_text(ids).tolist())) == len(TEXTS)
    assert_close(encoded(tower, ids), model.encode_text(ids), rtol=1e-5, atol=1e-6)


def test_tokenised_texts_are_encoded_as_open_clip_encodes_them(clip, tower):
    model, tokenizer = clip
    ids = tokenizer([*TEXTS, "one of the longest names that anybody has ever given to a bird " * 9])
    assert_close(tower.encode_ids(ids), model.encode_text(ids), rtol=1e-5, atol=1e-6)


def test_a_shared_prefix_computed_once_changes_nothing(clip, tower):
    model, tokenizer = clip
    ids = tokenizer(["a photo of a Teal", "a photo of a Dusky Wren."])
    prefix = tower.token_embedding(ids[0, :5])  # start, a, photo, of, a
    assert_close(encoded(tower, ids, skipped=5, prefix=prefix), model.encode_text(ids), rtol=1e-5, atol=1e-6)


def test_packing_by_hand():
    packing = Packing.of(torch.tensor([2, 1, 3]))
    assert packing.position.tolist() == [0, 1, 0, 0, 1, 2]
    assert packing.last.tolist() == [1, 2, 5]
    packed = torch.arange(1.0, 7.0)[:, None]
    padded = packing.pad(packed)
    assert padded[..., 0].tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert torch.equal(packing.pack(padded), packed)


def test_the_linear_projection_with_bias_is_applied():
    from open_clip.model import CustomTextCLIP

    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1, "proj_bias": True}
    vision = {"layers": 1, "width": 16, "head_width": 16, "patch_size": 8, "image_size": 16}
    model = CustomTextCLIP(12, vision, text)
    torch.nn.init.normal_(model.text.text_projection.bias)
    ids = torch.tensor([[3, 7, 19, 0, 0, 0, 0, 0]])
    tower = TextTower.of(model)
    assert_close(encoded(tower, ids), model.encode_text(ids))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ({"no_causal_mask": True}, "causal"),
        ({"embed_cls": True}, "causal"),
        ({"pool_type": "last"}, "last"),
        ({"block_type": "custom"}, "standard attention blocks"),
    ],
)
def test_towers_for_which_the_savings_are_not_exact_are_refused(text, word):
    from open_clip.model import CustomTextCLIP

    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1} | text
    vision = {"layers": 1, "width": 16, "head_width": 16, "patch_size": 8, "image_size": 16}
    with pytest.raises(UnsupportedTextTowerError, match=word):
        TextTower.of(CustomTextCLIP(12, vision, text))
