"""The Grocery Store benchmark's tiny models on made-up photos: what captions claim, that both recipes load."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.grocery.captions import Caption, coarse_caption, name_caption, siblings, written_names
from benchmarks.grocery.clip import train_clip
from benchmarks.grocery.mllm import train_mllm
from benchmarks.grocery.models import named_right
from benchmarks.grocery.photos import Photos, augment, load_photos, normalised, plain
from benchmarks.grocery.questions import read_table
from benchmarks.grocery.vqa import EXPERT_PROMPT, answered_right, train_vqa


def photos(count: int) -> Photos:
    """Noise in one colour a class: two apples, a lemon, a milk."""
    classes = np.arange(count) % 4
    colours = np.array([[200, 30, 30], [40, 180, 40], [220, 220, 40], [230, 230, 230]])
    noise = np.random.default_rng(0).integers(-20, 20, (count, 96, 96, 3))
    images = (colours[classes][:, None, None] + noise).clip(0, 255).astype(np.uint8)
    names = ("Pink Lady", "Granny Smith", "Lemon", "Arla Standard Milk")
    departments = ("fruit", "fruit", "fruit", "packages")
    return Photos(images, classes, names, np.array([0, 0, 1, 2]), ("Apple", "Lemon", "Milk"), departments)


def test_a_layout_is_read_with_coarse_classes_and_departments(tmp_path):
    root = tmp_path / "dataset"
    for path in ("train/Fruit/Apple/Pink-Lady/1.jpg", "val/Packages/Milk/Arla/2.jpg"):
        (root / path).parent.mkdir(parents=True)
        Image.new("RGB", (120, 160), (255, 0, 0)).save(root / path)
    (root / "classes.csv").write_text(
        "Class Name,Class ID,Coarse Class Name,Coarse Class ID\nPink-Lady,0,Apple,0\nArla,1,Milk,1\n"
    )
    (root / "train.txt").write_text("train/Fruit/Apple/Pink-Lady/1.jpg, 0, 0\n")
    (root / "val.txt").write_text("val/Packages/Milk/Arla/2.jpg, 1, 1\n")
    (root / "test.txt").write_text("")
    both, train = load_photos(tmp_path, ("train", "val")), load_photos(tmp_path, ("train",))
    assert both.images.shape == (2, 96, 96, 3)
    assert both.names == ("Pink Lady", "Arla")
    assert both.departments == ("fruit", "packages")
    assert [both.coarse_names[i] for i in both.coarse] == ["Apple", "Milk"]
    assert train.classes.tolist() == [0]


def test_captions_hold_for_the_classes_that_they_speak_of():
    some, rng = photos(8), np.random.default_rng(0)
    assert name_caption(some, 1, rng).holds.tolist() == [False, True, False, False]
    claims = {
        "apple": [True, True, False, False],
        "a photo of a fruit.": [True, True, True, False],
    }
    said: list[Caption] = [coarse_caption(some, 0, rng) for _ in range(200)]
    for caption in said:
        kind = caption.text if caption.text in claims else "apple"
        assert caption.holds.tolist() == claims[kind]
        assert kind in caption.text.lower()
    assert 20 < sum(caption.text == "a photo of a fruit." for caption in said) < 60  # a fifth of 200


def test_careless_writers_name_siblings():
    some = photos(1000)
    assert siblings(some, 0).tolist() == [1]
    assert siblings(some, 2).tolist() == [0, 1]  # no other lemon: another fruit
    assert siblings(some, 3).tolist() == [3]  # nothing to take it for
    written = written_names(some, np.random.default_rng(0))
    wrong = written != some.classes
    assert wrong[some.classes < 3].mean() == pytest.approx(0.4, abs=0.05)
    assert not wrong[some.classes == 3].any()


def test_augmentation_keeps_hue_and_range():
    some = torch.from_numpy(photos(40).images)
    seen = augment(some, np.random.default_rng(0))
    assert seen.shape == (40, 3, 64, 64)
    assert seen.min() >= 0
    assert seen.max() <= 1
    red = seen[::4].mean(dim=(2, 3))
    assert (red[:, 0] > 2 * red[:, 1]).all()
    assert not torch.equal(seen, augment(some, np.random.default_rng(1)))
    assert normalised(plain(some[:1])).mean(dim=(2, 3))[0].tolist() == pytest.approx(
        [(colour / 255 - 0.5) / 0.25 for colour in (199.5, 29.5, 29.5)], abs=0.05
    )


def test_every_product_is_a_fruit_a_vegetable_or_in_a_carton_and_most_differ_in_some_answer():
    table = read_table()
    assert table.truth.shape == (81, len(table.texts))
    kinds = [table.texts.index(text) for text in ("Is it a fruit?", "Is it a vegetable?", "Is it packed in a carton?")]
    assert table.truth[:, kinds].sum(axis=0).tolist() == [28, 22, 31]  # as in the data set's folders
    assert (table.truth[:, kinds].sum(axis=1) == 1).all()
    assert len(np.unique(table.truth, axis=0)) == 76  # four pairs or threes look alike to all questions
    assert table.truth.any(axis=0).all()


def test_the_truth_about_products_comes_in_their_order():
    table = read_table()
    lemon, milk = table.about(("Lemon", "Arla Standard Milk"))
    assert {text for text, yes in zip(table.texts, lemon, strict=True) if yes} == {
        "Is it a fruit?",
        "Is it yellow?",
        "Is it a citrus fruit?",
        "Is it smaller than a tennis ball?",
    }
    assert milk[table.texts.index("Is it made of milk?")]
    with pytest.raises(KeyError, match="Brioche"):
        table.about(("Brioche",))


@pytest.mark.slow
def test_the_asked_model_answers_questions_and_names_after_both_prompts(tmp_path):
    some, table = photos(8), read_table()
    train_mllm(some, None, tmp_path / "mllm", vision_steps=12, language_steps=1, seed=1)
    train_vqa(some, table, tmp_path / "mllm", tmp_path / "vqa", steps=240, seed=1)
    assert answered_right(tmp_path / "vqa", some, table) > 0.95
    assert named_right(tmp_path / "vqa", some) > 0.9
    assert named_right(tmp_path / "vqa", some, EXPERT_PROMPT) > 0.9


@pytest.mark.slow
def test_both_recipes_write_models_that_load_and_know_the_colours(tmp_path):
    import open_clip

    some = photos(80)
    train_mllm(some, None, tmp_path / "mllm", vision_steps=12, language_steps=40, seed=1)
    assert named_right(tmp_path / "mllm", some) > 0.9
    train_clip(some, some, tmp_path / "clip", looks_steps=6, names_steps=4, seed=1)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    assert model.context_length == 48
