"""The stand-ins of finer's language model."""

import numpy as np
import pytest

from benchmarks.grocery.questions import read_table
from benchmarks.papers.experts import EXPERTS, answering
from fgvr.baselines.finer_findr import described, naming_prompt
from fgvr.config.models import OpenAIBackend
from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.species import SPECIES
from fgvr.mllm.backend import Sampling
from fgvr.mllm.openai_server.backend import OpenAIClient
from fgvr.mllm.prompts import text_conversation

TEXTS = [question.text for question in QUESTIONS]


def prompt(p_yes: np.ndarray, count: int = 3) -> str:
    return naming_prompt(described(TEXTS, p_yes.astype(np.float32)), "birds", count)


@pytest.mark.parametrize("species", SPECIES[::6], ids=lambda species: species.name)
def test_true_answers_name_the_species_first(species) -> None:
    right = truths(species.attributes).astype(float)
    assert EXPERTS["ornithologist"].nearest(prompt(right, 4))[0] == species.name
    assert len(EXPERTS["ornithologist"].nearest(prompt(right, 4))) == 4
    unsure = np.where(np.arange(len(right)) % 5 == 0, 0.5, right)  # what is left out contradicts nothing
    assert species.name in EXPERTS["ornithologist"].nearest(prompt(unsure))


def test_without_a_known_question_it_names_nothing() -> None:
    assert EXPERTS["ornithologist"].nearest("Which 3 kinds could it be? Is it round? Yes") == []


def test_it_speaks_the_servers_language() -> None:
    with answering() as url:
        client = OpenAIClient(OpenAIBackend(base_url=url, model="ornithologist"))
        asked = [text_conversation(prompt(truths(SPECIES[7].attributes).astype(float))), text_conversation("Hello")]
        known, unknown = client.generate(asked, Sampling(max_tokens=64, temperature=0.9, seed=1))
    assert known.text is not None
    assert known.text.splitlines()[0] == SPECIES[7].name
    assert known.prompt_tokens > 100
    assert unknown.text == "I do not know this one."


def test_the_grocer_names_a_product_from_answers_of_which_one_is_wrong() -> None:
    table = read_table()
    said = table.about(("Lemon",))[0].astype(float)
    assert EXPERTS["grocer"].nearest(prompt_about(table.texts, said))[0] == "Lemon"
    said[table.texts.index("Does it grow in the ground?")] = 1.0  # no other product is as near
    assert EXPERTS["grocer"].nearest(prompt_about(table.texts, said))[0] == "Lemon"


def prompt_about(texts, p_yes: np.ndarray) -> str:
    return naming_prompt(described(texts, p_yes.astype(np.float32)), "groceries", 3)
