import platform
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.functional import to_tensor

from fgvr.clip.model import load_clip
from fgvr.config import Clip
from fgvr.encoders.timm_model import TimmModel
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


@pytest.mark.parametrize("kind", ["clip", "timm"])
def test_an_encoder_gives_in_passes_what_it_gives_at_once(kind, clip_folder, monkeypatch):
    torch.manual_seed(0)
    if kind == "clip":
        encoder = load_clip(Clip(model=str(clip_folder)))
        seen = encoder.network.visual
    else:
        seen = timm.create_model("test_byobnet", num_classes=0).eval()
        encoder = TimmModel(seen, to_tensor, 64, 128, seen.num_features, torch.device("cpu"))
    pixels = torch.randn(5, 3, encoder.image_size, encoder.image_size)
    at_once = encoder.encode(pixels)
    monkeypatch.setattr("fgvr.forward_pass.QUICK_PIXELS", 2 * encoder.image_size**2)
    sizes = counted(seen)
    np.testing.assert_allclose(encoder.encode(pixels), at_once, rtol=0, atol=1e-6)
    assert sizes == [2, 2, 1]


FAULTS = """
import resource
import torch
from fgvr.encoders.timm_model import TimmModel
from fgvr.forward_pass import in_passes

torch.set_num_threads(1)

def network(some):
    grown = [torch.ones(len(some), 96, 112, 112) for _ in range(3)]  # three of the largest activations live at once
    return sum(each[:, :2, 0, 0] for each in grown)

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        {call}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

images = torch.zeros(24, 224, 224, 3, dtype=torch.uint8)
with torch.inference_mode():
    faults(3)  # the heap finds its size
    print(faults(4))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
@pytest.mark.parametrize(("call", "again"), [("network(images)", False), ("in_passes(network, images, 'cpu')", True)])
def test_memory_of_activations_is_used_again(call, again):
    code = FAULTS.replace("{call}", call)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    pages = 4 * 3 * 24 * 96 * 112 * 112 * 4 // 4096  # of 4 KiB, if the system hands out all of them every time
    assert (int(done.stdout) < pages // 4) is again
