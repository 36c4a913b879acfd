import logging

import pytest
import torch
from torch.testing import assert_close

from fgvr.clip.prompt import PromptLearner, phrase_context, random_context
from fgvr.clip.prompt_layout import CONTEXT, prompt_layout
from fgvr.clip.text_tower import TextTower


def naive_features(model, tokenizer, names, context, position="end"):
    """CoOp as its authors wrote it: placeholders tokenized with the names, the context put over their embeddings, and
    open_clip's own `encode_text` over all tokens of all names.
    """
    count = context.shape[-2]
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    texts = [" ".join(["a"] * before + [name] + ["a"] * (count - before)) + "." for name in names]
    learned = torch.zeros(tokenizer(texts).shape, dtype=torch.bool)
    learned[:, 1 : 1 + before] = True
    for row, name in enumerate(names):
        behind = 1 + before + int((tokenizer([name])[0, 1:] != tokenizer([""])[0, 1]).int().argmin())
        learned[row, behind : behind + count - before] = True
    placed = context if context.ndim == 3 else context.expand(len(names), -1, -1)

    def put(module, inputs, embedded):
        embedded = embedded.clone()
        embedded[learned] = placed.flatten(0, 1)
        return embedded

    embedding = getattr(model, "text", model).token_embedding
    handle = embedding.register_forward_hook(put)
    try:
        return model.encode_text(tokenizer(texts), normalize=True)
    finally:
        handle.remove()


def naive_gradient(model, tokenizer, names, context, direction, position="end"):
    context = context.detach().clone().requires_grad_()
    features = naive_features(model, tokenizer, names, context, position)
    (gradient,) = torch.autograd.grad((features * direction).sum(), context)
    return features.detach(), gradient


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_features_and_gradient_are_those_of_the_plain_computation(clip, tower, names, class_specific, position, chunk):
    model, tokenizer = clip
    layout = prompt_layout(tokenizer, tower, names, 3, position)
    learner = PromptLearner(tower, layout, random_context(tower, 3, seed=1), class_specific)
    direction = drawn(len(names), 24)
    features, gradient = naive_gradient(model, tokenizer, names, learner.context, direction, position)
    found = learner.features(chunk)
    assert_close(found.detach(), features, rtol=1e-5, atol=1e-6)
    found.backward(direction)
    assert gradient.abs().max() > 1e-3
    assert (learner.context.grad - gradient).norm() < 1e-5 * gradient.norm()


def test_a_phrase_learns_from_the_gradient_of_that_text(clip, tower, names):
    model, tokenizer = clip
    start = phrase_context(tower, tokenizer, "a photo of a")
    learner = PromptLearner(tower, prompt_layout(tokenizer, tower, names, 4), start)
    direction = drawn(len(names), 24)
    _, gradient = naive_gradient(model, tokenizer, names, start, direction)
    learner.features(2).backward(direction)
    assert (learner.context.grad - gradient).norm() < 1e-5 * gradient.norm()


@pytest.fixture(scope="module")
def vit_b_16():
    """The text tower of ViT-B/16 (12 layers, 512 wide, 8 heads), random weights; its image tower is of no interest."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    return CLIP(512, vision, text, quick_gelu=True).eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_specific", "position"), [(False, "end"), (True, "end"), (False, "middle"), (True, "front")]
)
def test_the_gradient_is_exact_on_the_text_tower_of_vit_b_16(vit_b_16, names, class_specific, position):
    import open_clip

    tokenizer, tower = open_clip.SimpleTokenizer(), TextTower.of(vit_b_16)
    layout = prompt_layout(tokenizer, tower, names[:4], 16, position)
    learner = PromptLearner(tower, layout, random_context(tower, 16, seed=1), class_specific)
    direction = drawn(4, 512)
    features, gradient = naive_gradient(vit_b_16, tokenizer, names[:4], learner.context, direction, position)
    found = learner.features(3)
    assert_close(found.detach(), features, rtol=1e-4, atol=1e-5)
    found.backward(direction)
    assert (learner.context.grad - gradient).norm() < 1e-5 * gradient.norm()


def test_only_a_chunk_of_activations_is_kept(clip, tower):
    _, tokenizer = clip
    layout = prompt_layout(tokenizer, tower, [f"blue {i % 8}" for i in range(64)], 4)
    learner = PromptLearner(tower, layout, random_context(tower, 4, seed=1))

    def saved_bytes(work):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            work()
        return total

    last = saved_bytes(lambda: learner(slice(56, 64)))
    assert (
        last <= saved_bytes(lambda: learner.features(8)) < 1.05 * last < saved_bytes(lambda: learner.features(64)) / 2
    )


@pytest.mark.parametrize(
    ("position", "expected"),
    [("end", [-1, -1, -1, 5, 6]), ("middle", [-1, 5, 6, -1, -1]), ("front", [5, 6, -1, -1, -1])],
)
def test_the_name_stands_where_it_was_asked_to(clip_folder, position, expected):
    import open_clip

    tower_of = open_clip.create_model(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
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
