import pytest
import torch
from torch.testing import assert_close

from fgvr.clip.text_tower import TextTower, UnsupportedTextTowerError

TEXTS = ["a photo of a Teal.", "Great Black-backed Gull", "a", "a photo of a Crested Azure Finch."]


def test_text_cut_behind_its_end_is_encoded_as_open_clip_encodes_all_of_it(clip, tower):
    model, tokenizer = clip
    ids = tokenizer(TEXTS)
    end = tower.end_of_text(ids)
    cut = ids[:, : int(end.max()) + 1]
    assert cut.shape[1] < ids.shape[1]
    assert_close(tower.encode(tower.token_embedding(cut), end), model.encode_text(ids), rtol=1e-5, atol=1e-6)


def test_a_shared_prefix_computed_once_changes_nothing(clip, tower):
    model, tokenizer = clip
    ids = tokenizer(["a photo of a Teal", "a photo of a Dusky Wren."])
    end = tower.end_of_text(ids)
    shared = 5  # start, a, photo, of, a
    prefix = tower.token_embedding(ids[0, :shared])
    features = tower.encode(tower.token_embedding(ids[:, shared:]), end - shared, prefix)
    assert_close(features, model.encode_text(ids), rtol=1e-5, atol=1e-6)


def test_the_linear_projection_with_bias_is_applied():
    from open_clip.model import CustomTextCLIP

    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1, "proj_bias": True}
    vision = {"layers": 1, "width": 16, "head_width": 16, "patch_size": 8, "image_size": 16}
    model = CustomTextCLIP(12, vision, text)
    torch.nn.init.normal_(model.text.text_projection.bias)
    ids = torch.tensor([[3, 7, 19, 0, 0, 0, 0, 0]])
    tower = TextTower.of(model)
    assert_close(tower.encode(tower.token_embedding(ids), tower.end_of_text(ids)), model.encode_text(ids))


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
