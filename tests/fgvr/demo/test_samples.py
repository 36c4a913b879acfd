import io
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from fgvr.demo.drawing import draw
from fgvr.demo.samples import class_of, sample
from fgvr.demo.scene import sample_scene
from fgvr.demo.species import SPECIES


def pixels(index: int) -> bytes:
    return sample(3, "train", index, difficulty=1.5).image.tobytes()


def test_a_drawing_depends_on_seed_split_and_index_alone():
    backwards = {index: pixels(index) for index in range(20, -1, -1)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(pixels, 7).result() == backwards[7] == pixels(7)


def test_seeds_splits_indices_and_kinds_give_different_drawings():
    seen = [
        sample(seed, split, index, difficulty=1, kind=kind).image.tobytes()
        for seed in (0, 1)
        for split in ("train", "test", "mllm")
        for index in range(40)
        for kind in ("species", "random")
    ]
    assert len(set(seen)) == len(seen) == 480


def test_each_run_of_36_indices_holds_every_species_once():
    for block in (0, 5, 27_000):
        ids = [class_of(0, "train", 36 * block + place) for place in range(36)]
        assert sorted(ids) == list(range(36))
    assert [class_of(0, "train", i) for i in range(36)] != [class_of(0, "train", 36 + i) for i in range(36)]
    drawn = sample(0, "train", 40, difficulty=1)
    assert drawn.class_id == class_of(0, "train", 40)
    assert drawn.attributes == SPECIES[drawn.class_id].attributes


def test_random_birds_have_no_class():
    assert sample(0, "train", 0, difficulty=1, kind="random").class_id is None


def test_the_image_is_a_64_px_rgb_jpeg():
    with Image.open(io.BytesIO(sample(0, "train", 0, difficulty=1).jpeg())) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_without_difficulty_only_habitat_backdrop_and_direction_vary():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, 0) for _ in range(50)]
    assert {(s.centre, s.scale, s.rotation, s.gain, s.noise, s.branch) for s in scenes} == {
        ((32, 33), 21.5, 0, 1, 0, None)
    }
    assert len({s.habitat for s in scenes}) == 6


def test_difficulty_moves_a_bird_further_from_its_studio_picture():
    def distance(difficulty: float) -> float:
        gaps = []
        for index in range(60):
            one, two = (np.random.default_rng(index) for _ in range(2))
            bird = SPECIES[index % 36].attributes
            plain = draw(bird, sample_scene(one, 0), one).astype(float)
            gaps.append(np.abs(draw(bird, sample_scene(two, difficulty), two) - plain).mean())
        return float(np.mean(gaps))

    assert distance(0) == 0
    assert 0 < distance(0.5) < distance(1) < distance(2) < distance(3)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (2**32, 0), (0, -1), (0, 2**32)])
def test_seeds_and_indices_that_could_collide_are_refused(seed, index):
    with pytest.raises(ValueError, match="outside 0"):
        sample(seed, "train", index, difficulty=1)
