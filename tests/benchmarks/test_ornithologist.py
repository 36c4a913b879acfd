"""The stand-in of finer's language model."""

import numpy as np
import pytest
from ornithologist import answering, nearest_species

from fgvr.baselines.attributes import described, naming_prompt
from fgvr.config.models import OpenAIBackend
from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.species import SPECIES
from fgvr.mllm.backend import Sampling
from fgvr.mllm.openai_backend import OpenAIClient
from fgvr.mllm.prompts import text_conversation

TEXTS = [question.text for question in QUESTIONS]


def prompt(p_yes: np.ndarray, count: int = 3) -> str:
    return naming_prompt(described(TEXTS, p_yes.astype(np.float32)), "birds", count)


@pytest.mark.parametrize("species", SPECIES[::6], ids=lambda species: species.name)
def test_true_answers_name_the_species_first(species) -> None:
    right = truths(species.attributes).astype(float)
    assert nearest_species(prompt(right, 4))[0] == species.name
    assert len(nearest_species(prompt(right, 4))) == 4
    unsure = np.where(np.arange(len(right)) % 5 == 0, 0.5, right)  # what is left out contradicts nothing
    assert species.name in nearest_species(prompt(unsure))


def test_without_a_known_question_it_names_nothing() -> None:
    assert nearest_species("Which 3 kinds could it be? Is it round? Yes") == []


def test_it_speaks_the_servers_language() -> None:
    with answering() as url:
        client = OpenAIClient(OpenAIBackend(base_url=url, model="ornithologist"))
        asked = [text_conversation(prompt(truths(SPECIES[7].attributes).astype(float))), text_conversation("Hello")]
        known, unknown = client.generate(asked, Sampling(max_tokens=64, temperature=0.9, seed=1))
    assert known.text is not None
    assert known.text.splitlines()[0] == SPECIES[7].name
    assert known.prompt_tokens > 100
    assert unknown.text == "I do not know this bird."
