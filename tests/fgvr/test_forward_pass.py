import pytest
import torch
from torch import nn

from fgvr.clip.model import load_clip
from fgvr.config import Clip
from fgvr.forward_pass import images_per_pass, in_passes
from fgvr.models.student import StudentClassifier, StudentSpec, build_student, timm_preprocess


@pytest.mark.parametrize(
    ("side", "images"),
    [(224, 6), (160, 13), (128, 21), (64, 85), (384, 2), (590, 1), (591, 1), (4000, 1)],
)
def test_no_activation_on_a_cpu_is_larger_than_32_mib(side, images):
    assert images_per_pass(side * side, "cpu") == images
    # 96 bytes per pixel: 96 float32 channels at half the resolution in both directions
    assert images == 1 or images * 96 * 4 * (side / 2) ** 2 <= 32 * 1024**2


def test_a_gpu_takes_all_that_it_is_given():
    assert images_per_pass(224 * 224, "cuda") is None
    seen = []
    in_passes(lambda some: seen.append(len(some)) or some, torch.zeros(64, 224, 224, 3, dtype=torch.uint8), "cuda:1")
    assert seen == [64]


@pytest.mark.parametrize("shape", [(3, 224, 224), (224, 224, 3)])
def test_passes_keep_the_order_and_lose_no_image(shape):
    images = torch.arange(15).view(15, 1, 1, 1).expand(15, *shape)
    seen = []

    def network(some):
        seen.append(len(some))
        return some[:, 0, 0, :1].double()

    assert in_passes(network, images, "cpu")[:, 0].tolist() == list(range(15))
    assert seen == [6, 6, 3]


def counted(network: nn.Module) -> list[int]:
    """Numbers of images with which a network is called from now on."""
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_a_student_predicts_in_passes_what_it_predicts_at_once():
    torch.manual_seed(0)
    spec = StudentSpec("test_byobnet", ("a", "b"), ("Is it red?",), timm_preprocess("test_byobnet", 224))
    model = build_student(spec).eval()
    prepared = torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        classes, aspects = spec.split(model(spec.preprocess.normalise(prepared)))
    sizes = counted(model)
    outputs = StudentClassifier(spec, model).predict(prepared)
    assert sizes == [6, 2]
    torch.testing.assert_close(torch.from_numpy(outputs.scores), classes.softmax(dim=1))
    torch.testing.assert_close(torch.from_numpy(outputs.p_yes), aspects.sigmoid())


def test_an_encoder_gives_in_passes_what_it_gives_at_once(clip_folder, monkeypatch):
    clip = load_clip(Clip(model=str(clip_folder)))
    pixels = torch.randn(5, 3, clip.image_size, clip.image_size)
    at_once = clip.encode_pixels(pixels)
    monkeypatch.setattr("fgvr.forward_pass.QUICK_PIXELS", 2 * clip.image_size**2)
    sizes = counted(clip.network.visual)
    torch.testing.assert_close(clip.encode_pixels(pixels), at_once)
    assert sizes == [2, 2, 1]
