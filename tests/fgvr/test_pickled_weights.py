"""Model files that hold a program instead of weights: refused, with a message, and not run."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fgvr.clip.model import load_clip
from fgvr.clip.source import ClipError
from fgvr.config.models import Clip
from fgvr.metrics.semantic import BUNDLED_PACKAGE, SentenceBert, SentenceModelError
from fgvr.models.student import StudentSpec, build_student, load_student, save_student, timm_preprocess
from fgvr.training.prompt_data import STATE_FILE, WEIGHTS_FILE, NearState, read_weights
from fgvr.training.teacher import SCORES_FILE
from tests.fgvr.conftest import write_clip_folder

ROOT = Path(__file__).parents[2]


class Program:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the program would make; the test fails where it was made."""
    return tmp_path / "it-ran"


def evil(file: Path, mark: Path) -> None:
    """Weights as torch.save writes them, with a program among them."""
    torch.save({"weight": torch.zeros(2), "extra": Program(mark)}, file)


def test_the_program_would_run(tmp_path: Path, mark: Path) -> None:
    evil(tmp_path / "a.bin", mark)
    torch.load(tmp_path / "a.bin", weights_only=False)
    assert mark.exists()


def test_clip(tmp_path: Path, mark: Path) -> None:
    folder = write_clip_folder(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").unlink()
    evil(folder / "open_clip_pytorch_model.bin", mark)
    with pytest.raises(ClipError, match=r"clip\.model: .*holds more than tensors.*safetensors"):
        load_clip(Clip(model=str(folder)))
    assert not mark.exists()


def test_a_student_whose_safetensors_file_is_a_pickle(tmp_path: Path, mark: Path) -> None:
    size = timm_preprocess("resnet10t", 32, 32)
    spec = StudentSpec("resnet10t", ("a", "b"), (), size, {})
    save_student(tmp_path / "student", spec, build_student(spec).state_dict(), {})
    evil(tmp_path / "student" / "model.safetensors", mark)
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        load_student(tmp_path / "student")
    assert not mark.exists()


def test_the_checkpoint_of_a_training(tmp_path: Path, mark: Path) -> None:
    evil(tmp_path / STATE_FILE, mark)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        NearState.load(tmp_path, torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    assert not mark.exists()


@pytest.mark.parametrize("name", [WEIGHTS_FILE, SCORES_FILE])
def test_arrays(tmp_path: Path, mark: Path, name: str) -> None:
    np.save(tmp_path / name, np.array([Program(mark)], dtype=object), allow_pickle=True)
    (tmp_path / WEIGHTS_FILE).write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_weights(tmp_path)
    assert not mark.exists()


@pytest.mark.slow
def test_sentence_bert(tmp_path: Path, mark: Path) -> None:
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = tmp_path / "sentences"
    ignored = shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "*.msgpack", "*.h5")
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "model", folder, ignore=ignored)
    evil(folder / "pytorch_model.bin", mark)
    with pytest.raises(SentenceModelError, match="holds more than tensors"):
        SentenceBert(str(folder))
    assert not mark.exists()


# The engine's part of a worker, as it stands in a process of its own.
ENGINE = """
import sys
from fgvr.config.models import VllmBackend
from fgvr.mllm.vllm_engine.start import start_engine
from fgvr.mllm.vllm_engine.model_files import ModelError

try:
    start_engine(VllmBackend(model=sys.argv[1], cpu_kv_cache_gb=0.25, max_model_len=64), vision=False)
except ModelError as error:
    print("refused:", error)
"""


@pytest.mark.slow
def test_the_mllm(tmp_path: Path, mark: Path) -> None:
    folder = ROOT / "fgvr" / "demo" / "models" / "mllm"
    copy = tmp_path / "mllm"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    evil(copy / "pytorch_model.bin", mark)
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(copy)], capture_output=True, text=True, check=False, timeout=400, cwd=ROOT
    )
    assert "refused: mllm.model:" in done.stdout, done.stderr[-3000:]
    assert "holds more than tensors" in done.stdout
    assert not mark.exists()


def test_no_module_opens_what_could_run_a_program() -> None:
    # ruff's rules S301, S307, S506 and S614 say the same of most; a `noqa` would silence them.
    forbidden = ("pickle.load(", "pickle.loads(", "joblib", "yaml.load(", "allow_pickle=True", "weights_only=False")
    forbidden += ("trust_remote_code=True", "shell=True", "os.system(", " eval(", " exec(")
    files = [file for folder in ("fgvr", "cluster", "pipelines", "tune") for file in (ROOT / folder).rglob("*.py")]
    found = [(file.name, word) for file in files for word in forbidden if word in file.read_text()]
    # Two exceptions: an error that a trial of a sweep left on this machine, in Ray's own folder, and the job that a
    # worker gets from its driver, through Ray, which unpickles all that it carries.
    allowed = {("trials.py", "pickle.loads("), ("part_actor.py", "pickle.loads(")}
    assert set(found) - allowed == set()
    loads = [line for file in files for line in file.read_text().splitlines() if "torch.load(" in line]
    assert loads
    assert all("weights_only=True" in line for line in loads)
