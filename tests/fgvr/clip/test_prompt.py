import logging

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from fgvr.clip.prompt import PromptLearner, phrase_context, random_context
from fgvr.clip.prompt_layout import CONTEXT, prompt_layout


def naive_features(model, tokenizer, tower, names, context):
    """CoOp as its authors wrote it: tokenize placeholders, put the context over them, run all tokens of all names."""
    placeholders = " ".join(["a"] * context.shape[-2])
    ids = tokenizer([f"{placeholders} {name}." for name in names])
    tokens = tower.token_embedding(ids)
    learned = context if context.ndim == 3 else context.expand(len(names), -1, -1)
    tokens = torch.cat([tokens[:, :1], learned, tokens[:, 1 + learned.shape[1] :]], dim=1)
    text = getattr(model, "text", model)
    x = text.transformer(tokens + text.positional_embedding, attn_mask=text.attn_mask)
    x = text.ln_final(x)[torch.arange(len(ids)), tower.end_of_text(ids)] @ text.text_projection
    return F.normalize(x, dim=-1)


@pytest.mark.parametrize("class_specific", [False, True])
def test_features_are_those_of_the_plain_computation(clip, tower, names, class_specific):
    model, tokenizer = clip
    layout = prompt_layout(tokenizer, tower, names, context_tokens=4)
    learner = PromptLearner(tower, layout, random_context(tower, 4, seed=1), class_specific)
    expected = naive_features(model, tokenizer, tower, names, learner.context.detach())
    assert_close(learner().detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_the_gradient_of_chunks_is_the_gradient_of_the_whole(clip, tower, names, class_specific, position, chunk):
    _, tokenizer = clip
    layout = prompt_layout(tokenizer, tower, names, 3, position)
    learner = PromptLearner(tower, layout, random_context(tower, 3, seed=1), class_specific)
    direction = torch.randn(len(names), 24, generator=torch.Generator().manual_seed(2))
    (whole,) = torch.autograd.grad((learner() * direction).sum(), learner.context)
    (chunked,) = torch.autograd.grad((learner.features(chunk) * direction).sum(), learner.context)
    assert whole.abs().max() > 1e-3
    assert (chunked - whole).norm() < 1e-5 * whole.norm()


def test_the_shared_prefix_gradient_is_that_of_the_naive_computation(clip, tower, names):
    model, tokenizer = clip
    layout = prompt_layout(tokenizer, tower, names, 4)
    learner = PromptLearner(tower, layout, random_context(tower, 4, seed=1))
    direction = torch.randn(len(names), 24, generator=torch.Generator().manual_seed(2))
    context = learner.context.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(
        (naive_features(model, tokenizer, tower, names, context) * direction).sum(), context
    )
    (found,) = torch.autograd.grad((learner.features(2) * direction).sum(), learner.context)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_only_a_chunk_of_activations_is_kept(clip, tower):
    _, tokenizer = clip
    layout = prompt_layout(tokenizer, tower, [f"blue {i}" for i in range(64)], 4)
    learner = PromptLearner(tower, layout, random_context(tower, 4, seed=1))

    def saved_bytes(chunk):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            learner.features(chunk)
        return total

    assert saved_bytes(8) < saved_bytes(64) / 20


@pytest.mark.parametrize(
    ("position", "expected"),
    [("end", [-1, -1, -1, 5, 6]), ("middle", [-1, 5, 6, -1, -1]), ("front", [5, 6, -1, -1, -1])],
)
def test_the_name_stands_where_it_was_asked_to(clip_folder, position, expected):
    import open_clip

    tower_of = open_clip.create_model(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    from fgvr.clip.text_tower import TextTower

    layout = prompt_layout(tokenizer, TextTower.of(tower_of), ["a photo", "a"], 3, position)
    assert layout.ids[0].tolist() == [2, *expected, 4, 3]  # [BOS] … . [EOS]
    assert layout.end.tolist() == [7, 6]
    assert layout.ids[1, 7] == 0


def test_a_name_of_200_tokens_is_shortened_with_a_warning(clip, tower, caplog):
    _, tokenizer = clip
    long = " ".join(["blue"] * 200)
    with caplog.at_level(logging.WARNING):
        layout = prompt_layout(tokenizer, tower, ["Teal", long, "a"], 16)
    assert layout.shortened == (1,)
    assert "1 names are too long" in caplog.text
    assert layout.ids.shape[1] == tower.context_length
    learner = PromptLearner(tower, layout, random_context(tower, 16, seed=0))
    assert learner().isfinite().all()


def test_a_context_that_leaves_no_room_is_an_error(clip, tower):
    with pytest.raises(ValueError, match="leave no room"):
        prompt_layout(clip[1], tower, ["Teal"], tower.context_length - 3)


def test_a_phrase_as_context_gives_the_features_of_that_text(clip, tower, names):
    model, tokenizer = clip
    start = phrase_context(tower, tokenizer, "a photo of a")
    assert start.shape[0] == 4
    learner = PromptLearner(tower, prompt_layout(tokenizer, tower, names, 4), start)
    text = model.encode_text(tokenizer([f"a photo of a {name}." for name in names]), normalize=True)
    assert_close(learner().detach(), text, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no tokens"):
        phrase_context(tower, tokenizer, " ")


def test_placeholders_never_reach_the_embedding_table(clip, tower, names):
    layout = prompt_layout(clip[1], tower, names, 2)
    assert (layout.ids == CONTEXT).sum() == 2 * len(names)
