"""The code that loads and runs real pipelines, on tiny ones of the same classes with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.augment.diffusion import DiffusionGenerator, load_diffusion
from fgvr.augment.filters import Rejection
from fgvr.augment.generators import check_generator, generator_identity, pinned_generator
from fgvr.augment.pictures import Asked
from fgvr.augment.pipeline_source import GeneratorError, find_pipeline
from fgvr.config.augment import DiffusionModel
from tests.fgvr.augment import tiny_pipelines

KINDS: dict[str, Callable[[Path], Path]] = {
    "sd15": tiny_pipelines.sd15,
    "sdxl": tiny_pipelines.sdxl,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per kind of pipeline."""
    place = tmp_path_factory.mktemp("pipelines")
    return {kind: make(place / kind) for kind, make in KINDS.items()}


def config(folder: Path, kind: str = "sd15", **more: Any) -> DiffusionModel:
    return DiffusionModel(model=str(folder), pipeline=kind, **{"size": 64, "steps": 2, **more})


def asked(
    seed: int, prompt: str = "a photo of a finch", side: tuple[int, int] = (64, 64), subject: str = "red"
) -> Asked:
    pixels = np.zeros((side[1], side[0], 3), np.uint8)
    pixels[16:48, 16:48] = 255
    photo = Image.fromarray(pixels)
    return Asked(photo, Image.new("RGB", (64, 64), subject), "finch", prompt, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_loaded_and_makes_pictures(kind: str, made: dict[str, Path]) -> None:
    generator = load_diffusion(config(made[kind], kind))
    assert (generator.size, generator.square) == (64, False)
    pictures = generator.make([asked(1), asked(2)])
    for picture in pictures:
        assert picture.rejection is None
        assert picture.pixels is not None
        assert (picture.pixels.shape, picture.pixels.dtype) == ((64, 64, 3), np.uint8)
    assert _difference(pictures[0].pixels, pictures[1].pixels) > 1
    # A picture's noise is its own, whatever is made with it:
    (alone,) = generator.make([asked(2)])
    assert _difference(alone.pixels, pictures[1].pixels) < 0.5


def test_in_bf16_a_picture_is_nearly_the_same(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs, on which nothing runs here."""
    monkeypatch.setattr("fgvr.augment.diffusion.held", lambda *_: "bf16")
    low = load_diffusion(config(made["sd15"]))
    assert low.pipeline.unet.dtype == low.pipeline.controlnet.dtype == low.pipeline.vae.dtype == torch.bfloat16
    monkeypatch.undo()
    (one,), (other,) = (generator.make([asked(1)]) for generator in (low, load_diffusion(config(made["sd15"]))))
    assert one.rejection is None
    assert 0 < _difference(one.pixels, other.pixels) < 20


def _difference(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_the_photos_shape_and_the_prompt_reach_the_pipeline(made: dict[str, Path]) -> None:
    generator = load_diffusion(config(made["sd15"]))
    (wide,) = generator.make([asked(1, side=(128, 64))])
    assert wide.pixels is not None
    assert wide.pixels.shape == (64, 128, 3)
    plain, other = (generator.make([asked(1, prompt=text)])[0].pixels for text in ("a photo of a finch", "x"))
    assert _difference(plain, other) > 0


def test_the_edges_and_their_scale_reach_the_controlnet(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    generator = load_diffusion(config(made["sd15"], negative_prompt="blurry"))
    pipeline = generator.pipeline

    def called(prompts: list[str], **options: Any) -> Any:
        seen.append({"prompts": prompts, **options})
        return pipeline(prompts, **options)

    generator.pipeline = called
    generator.make([asked(5, prompt="one"), asked(6, prompt="two")])
    (call,) = seen
    assert call["prompts"] == ["one", "two"]
    assert call["negative_prompt"] == ["blurry", "blurry"]
    assert (call["controlnet_conditioning_scale"], call["guidance_scale"], call["num_inference_steps"]) == (
        0.75,
        7.5,
        2,
    )
    assert [noise.initial_seed() for noise in call["generator"]] == [5, 6]
    edges = np.asarray(call["image"][0])
    assert set(np.unique(edges)) == {0, 255}
    assert 100 < (edges[:, :, 0] > 0).sum() < 300  # four sides of 32 pixels, one or two wide


def test_the_defaults_are_those_of_each_kind(made: dict[str, Path]) -> None:
    identities = {
        kind: generator_identity(DiffusionModel(model=str(made[kind]), pipeline=kind))  # type: ignore[arg-type]
        for kind in KINDS
    }
    assert {kind: (each["steps"], each["guidance"]) for kind, each in identities.items()} == {
        "sd15": (30, 7.5),
        "sdxl": (2, 0.0),
    }


def test_what_identifies_a_pipeline_is_its_content(made: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made["sd15"], copy)
    identity = generator_identity(config(made["sd15"]))
    assert generator_identity(config(copy)) == identity
    assert generator_identity(config(copy, steps=3)) != identity
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert generator_identity(config(copy)) != identity
    assert pinned_generator(config(copy)) == config(copy)  # a folder has no commit


class Pipeline:
    """In place of a pipeline: it gives these pictures."""

    def __init__(self, images: list[Any], flags: list[bool] | None = None) -> None:
        self.images, self.nsfw_content_detected = images, flags

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def set_progress_bar_config(self, **_: Any) -> None:
        return None


def test_black_unsafe_and_broken_pictures_are_rejected_at_once(made: dict[str, Path]) -> None:
    good, black = np.random.default_rng(0).random((64, 64, 3)), np.zeros((64, 64, 3))
    broken = np.where(good > 0.9, np.nan, good)
    pipeline = Pipeline([good, black, broken, black], [False, True, False, False])
    generator = DiffusionGenerator(config(made["sd15"]), pipeline, torch.device("cpu"))
    found = generator.make([asked(n) for n in range(4)])
    assert [picture.rejection for picture in found] == [
        None,
        Rejection.UNSAFE,
        Rejection.NOT_FINITE,
        Rejection.BLANK,
    ]


def test_a_safety_checker_in_the_folder_is_used(made: dict[str, Path], tmp_path: Path) -> None:
    """Its only concept is one that every picture has: the pipeline blanks all of them."""
    from diffusers import StableDiffusionControlNetPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**width, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=8, text_config=width, vision_config=vision))
    checker.concept_embeds_weights.data.fill_(-2.0)  # a threshold below every cosine
    plain = StableDiffusionControlNetPipeline.from_pretrained(
        made["sd15"], safety_checker=None, requires_safety_checker=False
    )
    parts = {**plain.components, "safety_checker": checker}
    parts["feature_extractor"] = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    StableDiffusionControlNetPipeline(**parts).save_pretrained(tmp_path / "safe")
    (picture,) = load_diffusion(config(tmp_path / "safe")).make([asked(1)])
    assert picture.rejection is Rejection.UNSAFE


def without(folder: Path, place: Path, *names: str) -> Path:
    """A copy without these files or folders."""
    shutil.copytree(folder, place)
    for name in names:
        path = place / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return place


def test_a_controlnet_of_its_own_folder(made: dict[str, Path], tmp_path: Path) -> None:
    bare = without(made["sd15"], tmp_path / "bare", "controlnet")
    with pytest.raises(GeneratorError, match=r"generator\.controlnet: .* has no ControlNet in it"):
        find_pipeline(config(bare))
    apart = tmp_path / "apart"
    shutil.copytree(made["sd15"] / "controlnet", apart)
    beside = config(bare, controlnet=str(apart))
    whole = load_diffusion(config(made["sd15"])).make([asked(3)])[0].pixels
    assert _difference(load_diffusion(beside).make([asked(3)])[0].pixels, whole) < 0.5
    with pytest.raises(GeneratorError, match="no folder of a ControlNet"):
        find_pipeline(config(bare, controlnet=str(tmp_path)))
    with pytest.raises(GeneratorError, match="describes UNet2DConditionModel, and no ControlNetModel"):
        find_pipeline(config(bare, controlnet=str(made["sd15"] / "unet")))


def test_a_photo_of_the_subject_is_followed(made: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(made["sd15"] / "unet")
    weights = tiny_pipelines.ip_adapter(tmp_path / "adapter", unet)
    seen = config(made["sd15"], subject=str(weights))
    generator = load_diffusion(seen)
    red, blue = generator.make([asked(1, subject="red"), asked(1, subject="blue")])
    (alone,) = generator.make([asked(1, subject="blue")])
    assert _difference(red.pixels, blue.pixels) > 0.1
    assert _difference(alone.pixels, blue.pixels) == 0
    unseen = load_diffusion(config(made["sd15"], subject=str(weights), subject_scale=0)).make([asked(1)])[0].pixels
    assert _difference(unseen, load_diffusion(config(made["sd15"])).make([asked(1)])[0].pixels) < 0.5
    identity = generator_identity(seen)
    assert identity != generator_identity(config(made["sd15"]))
    assert identity != generator_identity(config(made["sd15"], subject=str(weights), subject_scale=1))
    shutil.rmtree(tmp_path / "adapter" / "image_encoder")
    with pytest.raises(GeneratorError, match=r"generator\.subject: .*image_encoder holds no weights"):
        find_pipeline(seen)
    with pytest.raises(GeneratorError, match=r"expected a \.safetensors file"):
        find_pipeline(config(made["sd15"], subject=str(tmp_path)))


def test_folders_that_are_no_such_pipeline(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeneratorError, match=r"model_index\.json"):
        check_generator(config(tmp_path / "empty"))
    with pytest.raises(GeneratorError, match="is not a folder"):
        find_pipeline(config(tmp_path / "nowhere"))
    with pytest.raises(GeneratorError, match=r"text_encoder_2, which augment\.generator\.pipeline = sdxl needs"):
        find_pipeline(config(made["sd15"], "sdxl"))
    with pytest.raises(GeneratorError, match="name the folder of a diffusers pipeline"):
        find_pipeline(DiffusionModel())
    with pytest.raises(GeneratorError, match=r"generator\.revision = main: only hub models"):
        find_pipeline(config(made["sd15"], revision="main"))
    with pytest.raises(GeneratorError, match="the Hugging Face hub did not give hf-hub:nobody/nothing"):
        find_pipeline(DiffusionModel(model="hf-hub:nobody/nothing"))
    broken = without(made["sd15"], tmp_path / "broken", "vae")
    with pytest.raises(GeneratorError, match="has no folder vae"):
        find_pipeline(config(broken))
    (broken / "model_index.json").write_text("{")
    with pytest.raises(GeneratorError, match="is not JSON"):
        find_pipeline(config(broken))


def test_pickled_weights_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    for part, file in (
        ("unet", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("controlnet", "diffusion_pytorch_model"),
    ):
        place = without(made["sd15"], tmp_path / part, f"{part}/{file}.safetensors")
        with pytest.raises(GeneratorError, match="holds no weights"):
            find_pipeline(config(place))
        (place / part / f"{file}.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(GeneratorError, match=r"\.bin alone.*run any program"):
            find_pipeline(config(place))


def test_classes_from_elsewhere_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    place = without(made["sd15"], tmp_path / "evil")
    index = json.loads((place / "model_index.json").read_text())
    index["scheduler"] = ["subprocess", "Popen"]
    (place / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(GeneratorError, match=r"scheduler from subprocess\.Popen"):
        find_pipeline(config(place))


def test_damaged_weights_are_an_error_that_names_the_field(made: dict[str, Path], tmp_path: Path) -> None:
    place = without(made["sd15"], tmp_path / "damaged")
    (place / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(GeneratorError, match=r"augment\.generator\.model: damaged cannot be loaded"):
        load_diffusion(config(place))


def test_half_precision_files_are_found(made: dict[str, Path], tmp_path: Path) -> None:
    """Folders that hold only `….fp16.safetensors`, as many on the hub do."""
    from diffusers import StableDiffusionControlNetPipeline

    StableDiffusionControlNetPipeline.from_pretrained(
        made["sd15"], safety_checker=None, requires_safety_checker=False
    ).save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    (picture,) = load_diffusion(config(tmp_path / "half")).make([asked(1)])
    assert picture.rejection is None


def test_without_diffusers_it_says_what_to_install(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.augment.pipeline_source.find_spec", lambda _: None)
    with pytest.raises(GeneratorError, match=r"pip install -e '\.\[augment\]'"):
        check_generator(config(made["sd15"]))
    with pytest.raises(GeneratorError, match="not installed"):
        load_diffusion(config(made["sd15"]))
