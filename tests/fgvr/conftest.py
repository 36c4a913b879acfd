"""Tiny random CLIPs: OpenAI's layout with the original tokenizer, and a folder with a tokenizer of its own."""

import json
from pathlib import Path

import pytest
import torch

import fgvr  # noqa: F401 - prepares torchvision beside a CPU torch
from fgvr.clip.text_tower import TextTower

NAMES = ["Crested Azure Finch", "Dusky Wren", "Long-billed Crimson Dipper", "Teal", "Great Black-backed Gull"]
VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
SPECIAL = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
PARTS = sorted({word for name in NAMES for word in name.replace("-", " ").split()})
WORDS = [*SPECIAL, ".", "a", "photo", "of", "-", "blue", *PARTS]


def build_openai_clip() -> torch.nn.Module:
    """open_clip's `CLIP`: 49,408 tokens, pooled at the highest id, QuickGELU."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
    return CLIP(24, VISION, text, quick_gelu=True).eval().requires_grad_(False)


def write_clip_folder(folder: Path) -> Path:
    """A `local-dir:` model: `CustomTextCLIP` pooled at an EOS in the middle of the ids, tokenizer files beside it."""
    from open_clip.model import CustomTextCLIP
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    text = {"context_length": 32, "vocab_size": len(WORDS), "width": 32, "heads": 2, "layers": 2}
    text |= {"pool_type": "eos", "eos_id": 3, "pad_id": 0, "hf_tokenizer_name": "own"}
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text, "custom_text": True}
    model = CustomTextCLIP(24, VISION, text)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[BOS]", eos_token="[EOS]", pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return write_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session", params=["openai", "folder"])
def clip(request, clip_folder):
    """(model, tokenizer) of both kinds."""
    import open_clip

    if request.param == "openai":
        return build_openai_clip(), open_clip.SimpleTokenizer()
    name = f"local-dir:{clip_folder}"
    return open_clip.create_model(name).eval().requires_grad_(False), open_clip.get_tokenizer(name)


@pytest.fixture(scope="session")
def names():
    return NAMES


@pytest.fixture
def tower(clip):
    return TextTower.of(clip[0])


@pytest.fixture
def without_heif(monkeypatch):
    """As on a machine without pillow-heif."""
    from fgvr.images import formats

    there = tuple(name for name in formats.formats() if name != "HEIF")
    monkeypatch.setattr(formats, "formats", lambda: there)
    monkeypatch.setattr(formats, "formats", lambda: there)
    monkeypatch.setattr("fgvr.images.read.formats", lambda: there)


@pytest.fixture
def stand_in_for_heif(monkeypatch):
    """As on a machine with pillow-heif: a package of its name, which teaches Pillow to read a PNG behind such
    a start as HEIC files have, which is what the fixture gives.
    """
    import io
    import sys
    import types

    from PIL import Image, PngImagePlugin

    from fgvr.images import formats

    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"

    class Heif(PngImagePlugin.PngImageFile):
        format = "HEIF"

        def __init__(self, file, name):
            super().__init__(io.BytesIO(file.read()[len(start) :]), name)

    def register(**options):
        assert options == {"decode_threads": 1, "thumbnails": False}
        Image.register_open("HEIF", Heif, lambda found: found[4:12] == b"ftypheic")

    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = register
    before = dict(Image.OPEN), list(Image.ID)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    formats.formats.cache_clear()
    yield start
    Image.OPEN.clear()
    Image.OPEN.update(before[0])
    Image.ID[:] = before[1]
    formats.formats.cache_clear()
