"""Every kind of multimodal LLM answers for itself: one that forgets an answer cannot be defined, made or provided."""

import re
from pathlib import Path
from typing import get_args

import pytest

from fgvr.config.models import Backend, Mllm, OpenAIBackend, SimulatedBackend, VllmBackend
from fgvr.mllm.backend import Provider
from fgvr.mllm.backends import provider

KINDS = get_args(get_args(Mllm)[0])
PRODUCT = [place for folder in ("fgvr", "cluster", "pipelines", "tune") for place in Path(folder).rglob("*.py")]


def test_every_kind_of_the_union_has_a_provider() -> None:
    assert set(KINDS) == {kind for kind in Backend.__subclasses__() if kind.__module__ == Backend.__module__}
    made = [VllmBackend(), OpenAIBackend(model="m"), SimulatedBackend()]
    assert {type(model) for model in made} == set(KINDS)
    assert len({type(provider(model)) for model in made}) == len(KINDS)


def test_what_they_say_of_themselves() -> None:
    facts = {
        kind.model_fields["kind"].default: (kind.runs_here, kind.billed_by_token, kind.scores_names, kind.made_up)
        for kind in KINDS
    }
    assert facts == {
        "vllm": (True, False, True, False),
        "openai": (False, True, False, False),
        "simulated": (True, False, True, True),
    }
    assert OpenAIBackend(model="big").title == "big"
    assert SimulatedBackend().title == "simulated"
    assert VllmBackend().free
    assert not VllmBackend(model="OpenGVLab/InternVL3_5-8B-HF").free


def test_a_key_is_wanted_where_the_connection_is_safe() -> None:
    key = OpenAIBackend(model="m").key
    assert key is not None
    assert (key.variable, key.server) == ("OPENAI_API_KEY", "https://api.openai.com/v1")
    assert OpenAIBackend(model="m", base_url="HTTP://gpu:8000/v1").key is None
    assert VllmBackend().key is None


def test_a_kind_that_forgets_an_answer_is_an_error() -> None:
    with pytest.raises(TypeError, match="made_up"):

        class Forgetful(Backend, runs_here=True, billed_by_token=False, scores_names=True):  # type: ignore[call-arg]
            pass

    class Silent(Backend, runs_here=True, billed_by_token=False, scores_names=True, made_up=False):
        pass

    with pytest.raises(TypeError, match="check, free, keeping, key, title, wait_field"):
        Silent()

    class Half(Provider):
        pass

    with pytest.raises(TypeError, match="identity"):
        Half()  # type: ignore[abstract]


def test_nobody_else_tells_kinds_apart() -> None:
    """A further kind means its config part, its module, and a case in `fgvr/mllm/backends.py`."""
    kinds = "|".join(kind.__name__ for kind in KINDS)
    names = "|".join(kind.model_fields["kind"].default for kind in KINDS)
    test = re.compile(rf"isinstance\([^)]*\b({kinds})\b|case ({kinds})\(|[=!]= \"({names})\"")
    assert [str(file) for file in PRODUCT if test.search(file.read_text())] == ["fgvr/mllm/backends.py"]
