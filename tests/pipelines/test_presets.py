"""The presets of the public data sets: the paper's setting, and found in the documentation."""

from pathlib import Path
from typing import get_args

import pytest

from fgvr.config import load_config
from fgvr.config.data import LayoutSource

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "pipelines" / "configs"
NAMES = get_args(LayoutSource.model_fields["name"].annotation)


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_the_paper_s_setting(name: str) -> None:
    config = load_config(["--config", name], PRESETS)
    source = config.ingest.source
    assert isinstance(source, LayoutSource)
    assert (source.name, source.legacy_cars_offset, config.run.name) == (name, False, name)
    images = config.label.images
    assert (images.drawn_from, images.per_class, images.seed) == ("train", 3, 0)
    assert (config.candidates.method, config.candidates.k) == ("neighbours", 3)
    assert (config.near.loss, config.near.context_length) == ("proden", 16)
    assert (config.clip.model, config.clip.pretrained) == ("ViT-B-16-quickgelu", "openai")
    assert (config.evaluate.split, config.evaluate.sentence_model) == ("test", "all-mpnet-base-v2")
    assert {"mllm", "zs_clip", "near"} <= set(config.evaluate.methods)


@pytest.mark.parametrize("name", NAMES)
def test_the_path_is_given_on_the_command_line(name: str) -> None:
    config = load_config(["--config", name, "--ingest.source.path", "/data/x"], PRESETS)
    assert isinstance(config.ingest.source, LayoutSource)
    assert (config.ingest.source.name, config.ingest.source.path) == (name, "/data/x")


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_names_it(name: str) -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    assert f"| `{name}` |" in page
    assert "(docs/datasets.md)" in (ROOT / "README.md").read_text()
    assert f"`{name}`" in (ROOT / "README.md").read_text()
