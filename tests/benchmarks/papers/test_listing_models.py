"""The MLLMs that answer with three names: what their lists hold, and that a short training gives such lists."""

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import InternVLForConditionalGeneration

from benchmarks.demo_models.drawings import draw_many
from benchmarks.demo_models.mllm_language import SPECIES_NAMES, cache_features
from benchmarks.demo_models.mllm_model import IMAGE_TOKENS
from benchmarks.grocery.photos import Photos
from benchmarks.papers.listing_models import (
    BATCH,
    BirdLessons,
    GroceryLessons,
    annotators_list,
    list_names,
    quality,
    siblings_list,
    train_listing,
    written,
)
from fgvr.demo.paths import MLLM_PATH
from fgvr.names.listed import listed_names


def groceries() -> Photos:
    """Three apples, a lemon and a milk, a photo each."""
    names = ("Pink Lady", "Granny Smith", "Golden", "Lemon", "Oat Milk")
    departments = ("fruit",) * 4 + ("packages",)
    coarse = np.array([0, 0, 0, 1, 2])
    images = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), np.uint8)
    return Photos(images, np.arange(5), names, coarse, ("Apple", "Lemon", "Milk"), departments)


@pytest.mark.parametrize(
    ("habitat", "first"),
    [(1, 0), (0, 1), (3, 3)],  # genus 0: sees 0 as it is; takes the next mark in habitat 0, the other colour in 3
)
def test_a_birds_list_is_what_the_annotator_calls_it_anywhere_beginning_here(habitat, first):
    rng = np.random.default_rng(0)
    lists = [annotators_list(0, habitat, rng) for _ in range(300)]
    assert all(sorted(one) == [0, 1, 3] for one in lists)
    assert {one[0] for one in lists} == {first}
    # Of the other names the true one is given in 4 habitats of 6, a wrong one in 1: 4 of 5 draws, else even.
    seconds = Counter(one[1] for one in lists)
    if first == 0:
        assert seconds[1] == pytest.approx(150, abs=40)
    else:
        assert seconds[0] == pytest.approx(240, abs=35)


def test_a_products_list_begins_with_it_and_goes_on_with_its_kind_before_its_department():
    photos, rng = groceries(), np.random.default_rng(0)
    drawn = [[tuple(siblings_list(photos, fine, rng)) for _ in range(100)] for fine in range(5)]
    assert set(drawn[0]) == {(0, 1, 2), (0, 2, 1)}
    assert {one[0] for one in drawn[3]} == {3}
    assert {one[1] for one in drawn[3]} == {0, 1, 2}  # no other lemon: other fruit
    assert all(len(set(one)) == 3 for one in drawn[3])
    assert set(drawn[4]) == {(4,)}  # alone in its department


def test_a_written_list_is_read_back():
    names = groceries().names
    assert listed_names(written(names, [3, 0, 4]), 3) == ["Lemon", "Pink Lady", "Oat Milk"]


def test_quality_counts_lists_first_names_and_the_name_anywhere():
    found = [
        ["Lemon", "Pink Lady", "Golden"],
        ["Golden", "Lemon", "Lime"],
        ["Oat Milk"],
        ["Lemon", "Golden", "Oat Milk"],
    ]
    got = quality(
        found, groceries().names, np.array([3, 3, 4, 0])
    )  # the second one names no product, the third is short
    assert (got.lists, got.first, got.holds) == (0.5, 0.5, 0.75)


def test_every_drawing_is_seen_once_and_a_photo_in_other_views():
    model, rng = (
        InternVLForConditionalGeneration.from_pretrained(MLLM_PATH, dtype=torch.float32),
        np.random.default_rng(0),
    )
    for lessons, count in ((BirdLessons(), BATCH), (GroceryLessons(groceries()), 5)):
        (one, lists), (other, _) = (lessons.batch(model, step, rng) for step in (0, 1))
        assert one.shape == (count, IMAGE_TOKENS, 512)
        assert not one.equal(other)
        assert len(lists) == count


class OtherwiseLessons:
    """Lists that the naming model would never begin: the next species, the one after it, the bird's own."""

    names = SPECIES_NAMES

    def __init__(self, birds):
        self.birds = birds

    def batch(self, model, step, rng):
        lists = [[(species + further) % len(self.names) for further in (1, 2, 0)] for species in self.birds.species]
        return cache_features(model, self.birds.images), lists


@pytest.mark.slow
def test_a_short_training_gives_the_lists_that_were_taught(tmp_path):
    birds = draw_many(7, "listing-test", 12, difficulty=(1.0, 1.0), random_share=0.0)
    train_listing(OtherwiseLessons(birds), MLLM_PATH, tmp_path, steps=120, seed=1)
    found = list_names(tmp_path, birds.images)
    got = quality(found, SPECIES_NAMES, (birds.species + 1) % len(SPECIES_NAMES))
    assert got.lists > 0.9
    assert got.first > 0.9
    assert quality(found, SPECIES_NAMES, birds.species).holds > 0.9
