"""Both training scripts from end to end, a few steps each: what they write must load."""

import numpy as np
import pytest
import torch

from benchmarks.demo_models import backbone, clip, mllm
from benchmarks.demo_models.clip import caption_names, encode_text, multi_positive_loss, preprocess, same_looks_loss
from benchmarks.demo_models.drawings import draw_many
from benchmarks.demo_models.reference import ReferenceMllm
from fgvr.demo.species import SPECIES
from fgvr.models.start_weights import find_start


@pytest.mark.slow
def test_the_clip_script_writes_an_open_clip_folder(tmp_path):
    import open_clip
    from PIL import Image

    clip.main(["--output", str(tmp_path), "--scale", "0.003", "--seed", "5"])
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    images = draw_many(0, "t", 3, difficulty=(1, 1), random_share=0).images
    expected = torch.stack([transform(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(preprocess(torch.from_numpy(images)), expected, atol=1e-5, rtol=1e-5)
    tokens = tokenizer([species.name for species in SPECIES])
    model.eval()
    with torch.no_grad():  # cutting the padding changes nothing
        torch.testing.assert_close(encode_text(model, tokens), model.encode_text(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_mllm_script_writes_a_checkpoint_that_answers(tmp_path):
    mllm.main(["--output", str(tmp_path), "--scale", "0.003", "--seed", "5"])
    reference = ReferenceMllm(tmp_path)
    images = draw_many(0, "t", 3, difficulty=(1, 1), random_share=0).images
    p, mass = reference.p_yes(images, ["Is the beak black?", "Is it a bird of a kind that nobody trained?"])
    assert p.shape == mass.shape == (3, 2)
    assert ((p > 0) & (p < 1)).all()
    assert len(reference.label(images, "Provide a label.")) == 3


def test_the_backbone_script_writes_weights_that_students_start_from(tmp_path):
    backbone.main(["--output", str(tmp_path), "--scale", "0.002", "--seed", "5"])
    start = find_start(str(tmp_path), backbone.BACKBONE)
    assert (start.mean, start.std) == ((0.5,) * 3, (0.25,) * 3)
    network = backbone.load_backbone(tmp_path)
    pixels = backbone.inputs_of(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert pixels.mean().item() == -2  # black: (0 − 0.5) / 0.25
    assert network(pixels).shape == (2, network.num_features)


def test_the_contrastive_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    both = torch.tensor([[True, True], [False, False]])  # row 2 and its own column's only positive is row 1
    # Rows: the first has two positives, log-softmax −log(1+e⁻²) and −2−log(1+e⁻²); the second has none.
    rows = np.log(1 + np.exp(-2)) + 1
    columns = (np.log(1 + np.exp(-2)) + (1 + np.log(1 + np.exp(-1)))) / 2
    assert multi_positive_loss(logits, both).item() == pytest.approx((rows + columns) / 2, abs=1e-6)


def test_birds_that_look_the_same_attract_each_other():
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    looks = torch.tensor([[0, 1], [0, 1], [1, 1]])
    # Bird 1 sees bird 2 at 1/0.5 and bird 3 at 0: −log(e²/(e²+1)); the same for bird 2; bird 3 has no partner.
    assert same_looks_loss(features, looks, 0.5).item() == pytest.approx(np.log(1 + np.exp(-2)), abs=1e-6)


def test_captions_name_siblings_at_the_stated_rate_and_never_strangers():
    species = np.tile(np.arange(-1, 36), 200)
    named = caption_names(species, np.random.default_rng(0))
    birds = species >= 0
    assert (named[~birds] == -1).all()
    assert (named[birds] // 6 == species[birds] // 6).all()
    assert (named[birds] != species[birds]).mean() == pytest.approx(0.4, abs=0.02)
