"""InternVL with tiles, LLaVA-NeXT and Qwen2-VL (M-RoPE) in the real engine, against a plain transformers forward.

Images of five shapes, so that each takes another number of tokens. Tolerance: both compute in fp32; 1e-4 is stated for
p(yes) and about 1e-6 was seen. What is told apart by it is far larger: see `test_the_comparison_can_fail`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenario_inputs import QUESTIONS, shaped
from tiny_tiled_checkpoints import build_llava_next, build_qwen2_vl, build_tiled_internvl
from transformers_reference import Reference

from fgvr.mllm.prompts import AspectOrder

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
BUILDERS = {"internvl": build_tiled_internvl, "llava_next": build_llava_next, "qwen2_vl": build_qwen2_vl}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    scratch = tmp_path_factory.mktemp("architectures")
    return {name: build(scratch / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def answers(folders: dict[str, Path]) -> dict[str, Any]:
    """Of all engines, one process after the other engine's end."""
    out = folders["internvl"].parent / "out.json"
    script = Path(__file__).parent / "architecture_answers.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), str(out), *map(str, folders.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module", params=list(BUILDERS))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(architecture: str, folders: dict[str, Path]) -> Reference:
    return Reference(folders[architecture])


def p_yes(rows: list[dict[str, Any]]) -> np.ndarray:
    assert [row["failure"] for row in rows] == [None] * len(rows)
    return np.array([row["p_yes"] for row in rows])


@pytest.mark.parametrize("order", ["shared_prefix", "paper"])
def test_probabilities_are_those_of_transformers(
    answers: dict[str, Any], architecture: str, reference: Reference, order: AspectOrder
) -> None:
    expected = np.array(
        [[reference.aspect(question, order, "Yes or No.", image)[0] for question in QUESTIONS] for image in shaped()]
    )
    # Neither near 0.5 throughout, nor the same for all images, nor for all questions.
    assert expected.std() > 0.1
    assert np.ptp(expected, axis=0).min() > 0.05
    assert np.ptp(expected, axis=1).min() > 0.01
    assert p_yes(answers[architecture][order]) == pytest.approx(expected, abs=TOLERANCE)


def test_spliced_prompts_equal_whole_ones(answers: dict[str, Any], architecture: str) -> None:
    found = answers[architecture]
    assert found["spliced"] is True
    assert found["same_ids"] == [True] * len(shaped())
    assert p_yes(found["paper"]) == pytest.approx(p_yes(found["plain"]), abs=TOLERANCE)


def test_images_take_tokens_by_their_shape(answers: dict[str, Any], architecture: str, reference: Reference) -> None:
    """As many as transformers' processor says; the shapes really are cut differently."""
    rows = answers[architecture]["shared_prefix"]
    conversation = reference.conversation(QUESTIONS[0], "shared_prefix", "Yes or No.")
    lengths = [reference.inputs(conversation, image)["input_ids"].shape[1] for image in shaped()]
    assert len(set(lengths)) >= 4
    assert [row["prompt_tokens"] - rows[0]["prompt_tokens"] for row in rows] == [
        len(QUESTIONS) * (length - lengths[0]) for length in lengths
    ]


def test_the_comparison_can_fail(folders: dict[str, Path]) -> None:
    """Qwen2-VL with the positions of plain text answers differently by far more than the tolerance."""
    reference, image = Reference(folders["qwen2_vl"]), shaped()[1]
    right = [reference.aspect(question, "shared_prefix", "Yes or No.", image)[0] for question in QUESTIONS]
    wrong = []
    for question in QUESTIONS:
        conversation = reference.conversation(question, "shared_prefix", "Yes or No.")
        length = reference.inputs(conversation, image)["input_ids"].shape[1]
        positions = torch.arange(length).expand(3, 1, -1)
        wrong.append(reference.aspect(question, "shared_prefix", "Yes or No.", image, position_ids=positions)[0])
    assert np.abs(np.array(right) - np.array(wrong)).max() > 100 * TOLERANCE
