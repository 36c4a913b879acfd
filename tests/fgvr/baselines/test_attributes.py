"""FineR's prompt from answers."""

import numpy as np

from fgvr.baselines.finer_findr import described, naming_prompt


def test_sure_answers_become_lines() -> None:
    questions = ["Is it red?", "Is it blue?", "Is it long?", "Has it a crest?", "Is it odd?"]
    p_yes = np.array([0.9, 0.1, 0.55, 0.61, np.nan], np.float32)
    assert described(questions, p_yes) == ["Is it red? Yes", "Is it blue? No", "Has it a crest? Yes"]


def test_the_prompt_holds_subject_answers_and_count() -> None:
    prompt = naming_prompt(["Is it red? Yes", "Is it {blue}? No"], "birds", 4)
    assert prompt.startswith("Somebody looked at a photo of birds and answered questions")
    assert "\nIs it red? Yes\nIs it {blue}? No\nWhich 4 kinds" in prompt
