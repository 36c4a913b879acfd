"""What the tests of NeaR's training share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fgvr.training.near_discovery import Discovery


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So small products lose by a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def discovery(tmp_path: Path, clip_folder: Path, names: list[str]) -> Discovery:
    return Discovery(tmp_path / "tables", clip_folder, names)
