"""The real engine with tiny random models of two architectures, against a plain transformers forward.

Tolerance: both compute in fp32; p(yes) differs by rounding only, 1e-3 is stated and about 1e-6 was seen.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenario_inputs import CHOICES, NAMES, ODD_QUESTIONS, QUESTIONS, drawn
from tiny_checkpoints import build_internvl, build_llava, build_text_model
from transformers_reference import Reference

from fgvr.mllm.prompts import AspectOrder

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
HERE = Path(__file__).parent


class Checked:
    """One architecture: what the engine did, and what transformers says."""

    def __init__(self, folder: Path, out: Path, text: Path | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "engine_scenarios.py"), str(folder), str(out)]
        done = subprocess.run(
            command + ([] if text is None else [str(text)]),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        self.results: dict[str, Any] = json.loads(out.read_text())
        self.reference = Reference(folder)


@pytest.fixture(scope="module", params=["internvl", "llava"])
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    build: Callable[[Path], Path] = {"internvl": build_internvl, "llava": build_llava}[request.param]
    scratch = tmp_path_factory.mktemp(request.param)
    text = build_text_model(scratch / "text") if request.param == "internvl" else None
    return Checked(build(scratch / "model"), scratch / "out.json", text)


@pytest.fixture
def results(checked: Checked) -> dict[str, Any]:
    return checked.results


def p_yes(answers: list[dict[str, Any]]) -> np.ndarray:
    assert [answer["failure"] for answer in answers] == [None] * len(answers)
    return np.array([answer["p_yes"] for answer in answers])


@pytest.mark.parametrize("order", ["shared_prefix", "paper"])
def test_probabilities_are_those_of_transformers(checked: Checked, order: AspectOrder) -> None:
    answers = checked.results["aspects_in_both_orders"][order]
    expected = [
        [checked.reference.aspect(question, order, "Yes or No.", drawn(seed)) for question in QUESTIONS]
        for seed in range(5)
    ]
    assert p_yes(answers) == pytest.approx(np.array(expected)[..., 0], abs=TOLERANCE)
    mass = np.array([answer["label_mass"] for answer in answers])
    assert mass == pytest.approx(np.array(expected)[..., 1], rel=0.01, abs=1e-6)
    assert p_yes(answers).std(axis=0).min() > 10 * TOLERANCE  # images matter: agreement is not by chance


def test_cached_and_cold_probabilities_agree(results: dict[str, Any]) -> None:
    first, again = results["aspects_again"]["first"], results["aspects_again"]["again"]
    assert p_yes(first) == pytest.approx(p_yes(again), abs=TOLERANCE)
    assert min(answer["cached_tokens"] for answer in again) > 0
    assert [a["prompt_tokens"] for a in first] == [a["prompt_tokens"] for a in again]


def test_spliced_questions_equal_full_renders(results: dict[str, Any]) -> None:
    plain = results["plain_prompts"]
    assert plain["same_ids"] == [True] * len(QUESTIONS)
    assert p_yes(plain["answers"]) == pytest.approx(p_yes(results["aspects_again"]["first"]), abs=TOLERANCE)


def test_splicing_that_changes_answers_is_not_used(results: dict[str, Any]) -> None:
    wrong = results["splicing_that_goes_wrong"]
    assert wrong["kinds"] == ["PlainPrompts", "SplicedPrompts"]
    assert p_yes(wrong["found"])[:, :-1] == pytest.approx(p_yes(wrong["expected"]), abs=TOLERANCE)


def test_lost_pixels_are_sent_again(results: dict[str, Any]) -> None:
    lost = results["pixels_lost_on_the_way"]
    assert p_yes(lost["found"]) == pytest.approx(p_yes(lost["expected"]), abs=TOLERANCE)


def test_names_have_the_log_probabilities_of_transformers(checked: Checked) -> None:
    found = checked.results["name_scores"]
    assert [answer["failure"] for answer in found["answers"]] == [None] * 5
    scores = np.array([answer["scores"] for answer in found["answers"]])
    expected = np.array([[checked.reference.name(name, "Name it", drawn(seed)) for name in NAMES] for seed in range(5)])
    assert scores == pytest.approx(expected, abs=TOLERANCE)
    assert scores.std(axis=0).min() > 5 * TOLERANCE  # images matter: agreement is not by chance
    assert found["branches"] > 1
    assert all(answer["cached_tokens"] > 0 for answer in found["answers"])


def test_names_of_a_picture_that_cannot_be_processed(checked: Checked) -> None:
    first, odd, last = checked.results["names_of_an_odd_picture"]
    assert odd["failure"]["reason"] == "request_rejected"
    expected = [answer["scores"] for answer in checked.results["name_scores"]["answers"][:2]]
    assert np.array([first["scores"], last["scores"]]) == pytest.approx(np.array(expected), abs=TOLERANCE)


def test_choices_have_the_probabilities_of_transformers(checked: Checked) -> None:
    first, long, last = checked.results["choices_by_name"]
    assert long["failure"]["reason"] == "request_rejected"
    for name, answer in ((NAMES[0], first), (NAMES[2], last)):
        assert answer["failure"] is None
        turns = [checked.reference.letters(CHOICES.conversation(turn, name), len(turn.order)) for turn in CHOICES.turns]
        sums = [sum(turn) for turn in turns]
        a, b, c, d = (np.array(turn) / sum(turn) for turn in turns)
        # Two rotations each: of three options the second begins with the second one, of two with the other one.
        expected = [(a + b[[2, 0, 1]]) / 2, (c + d[::-1]) / 2]
        for found, wanted in zip(answer["probabilities"], expected, strict=True):
            assert found == pytest.approx(wanted.tolist(), abs=TOLERANCE)
        assert answer["label_mass"] == pytest.approx([np.mean(sums[:2]), np.mean(sums[2:])], rel=0.01)
    assert last["cached_tokens"] > 0  # the questions stand before the name


def test_labels_are_those_of_transformers(checked: Checked) -> None:
    for seed, answer in enumerate(checked.results["labels"]):
        text, logprob, prompt_tokens = checked.reference.label(drawn(seed), 6)
        # Random models speak in random bytes: vLLM holds an unfinished character back, transformers shows its mark.
        assert answer["text"].rstrip("\ufffd") == text.rstrip("\ufffd")
        assert answer["logprob"] == pytest.approx(logprob, abs=1e-3)
        assert answer["prompt_tokens"] == prompt_tokens
        assert 1 <= answer["output_tokens"] <= 6
        assert answer["cut"] or answer["output_tokens"] < 6


def test_structured_answers_are_held_to_their_form(results: dict[str, Any]) -> None:
    held = results["structured_answers"]
    for answers, beginning, tokens in ((held["one"], '{"name": "', 24), (held["two"], '{"names": [{"name": "', 40)):
        for answer in answers:
            assert answer["failure"] is None
            assert answer["text"].startswith(beginning)
            assert "\n" not in answer["text"]
            assert answer["cut"] is (answer["output_tokens"] == tokens)
    assert {answer["text"] for answer in held["short"]} <= {'{"name": "Wren"}', '{"name": "Robin"}'}
    assert [answer["cut"] for answer in held["short"]] == [False, False]
    assert [answer["text"] for answer in held["free"]] == [answer["text"] for answer in results["labels"][:2]]


def test_a_form_that_the_engine_cannot_keep_to_is_named_before_any_image(results: dict[str, Any]) -> None:
    message = results["structured_answers"]["refused"]
    assert message.startswith("label.answer = structured: the engine cannot constrain this model's answers")
    assert message.endswith("set label.answer to free")


def test_a_sampled_answer_depends_on_its_seed_alone(results: dict[str, Any]) -> None:
    sampled = results["sampled_labels"]
    assert sampled["alone"] == [sampled["together"][2]]
    assert len(set(sampled["together"])) > 1


def test_a_refused_request_is_a_failed_row(results: dict[str, Any]) -> None:
    refused = results["one_request_too_long"]
    first, long, last = refused["answers"]
    assert first["text"] == last["text"] is not None
    assert long["failure"]["reason"] == "request_rejected"
    assert "512" in long["failure"]["detail"]
    assert refused["unfinished"] == 0


def test_a_picture_that_cannot_be_processed_fails_alone(results: dict[str, Any]) -> None:
    aspects = results["one_odd_picture"]["aspects"]
    assert aspects[1]["failure"]["reason"] == "request_rejected"
    good = [aspects[0], aspects[2]]
    assert p_yes(good) == pytest.approx(p_yes(results["aspects_again"]["first"])[:2], abs=TOLERANCE)
    odd, label = results["one_odd_picture"]["labels"]
    assert odd["failure"]["reason"] == "request_rejected"
    assert label["failure"] is None


def test_a_question_that_fits_nowhere_is_named(results: dict[str, Any]) -> None:
    assert results["question_too_long"].startswith("the engine rejects the question 'Is it? Is it?")
    assert "mllm.max_model_len" in results["question_too_long"]


def test_long_foreign_and_plain_sentences_are_asked_as_they_stand(checked: Checked) -> None:
    answers = checked.results["odd_questions"]
    expected = [
        [checked.reference.aspect(question, "shared_prefix", "i", image)[0] for question in ODD_QUESTIONS]
        for image in map(drawn, range(2))
    ]
    assert p_yes(answers) == pytest.approx(np.array(expected), abs=TOLERANCE)
    assert min(answer["prompt_tokens"] for answer in answers) > 425 + 3 * 20


def test_a_word_of_several_tokens_is_named_before_anything_is_asked(results: dict[str, Any]) -> None:
    message = results["words_of_several_tokens"]
    assert message.startswith("aspects.words: ")
    assert "'Perhaps'" in message


def test_a_corrupt_image_among_good_ones(results: dict[str, Any]) -> None:
    tables = results["workers_with_a_corrupt_image"]
    for rows in (tables["labels"], tables["aspects"]):
        assert [row["image_id"] for row in rows] == [3, 5, 8, 9]
        assert [row["error"] and row["error"]["reason"] for row in rows] == [None, "corrupt", "not_found", None]
    assert tables["labels"][0] == {**tables["labels"][3], "image_id": 3}
    assert tables["labels"][1]["texts"] == [None]
    assert tables["aspects"][0]["p_yes"] == pytest.approx(tables["aspects"][3]["p_yes"], abs=TOLERANCE)
    assert len(tables["aspects"][0]["p_yes"]) == len(QUESTIONS)
    assert tables["aspects"][1]["p_yes"] is None
    reasons = [row["error"]["reason"] for row in tables["no_mass"]]
    assert reasons == ["no_label_mass", "corrupt", "not_found", "no_label_mass"]


def test_one_pass_gives_the_rows_of_two(results: dict[str, Any]) -> None:
    tables = results["workers_with_a_corrupt_image"]
    for one, other in zip(tables["labels_of_one_pass"], tables["labels"], strict=True):
        assert one == {**other, "logprobs": pytest.approx(other["logprobs"], abs=1e-5)}
    for one, other in zip(tables["aspects_of_one_pass"], tables["aspects"], strict=True):
        assert one["error"] == other["error"]
        assert one["p_yes"] == (other["p_yes"] and pytest.approx(other["p_yes"], abs=TOLERANCE))


def test_text_without_an_image(results: dict[str, Any]) -> None:
    short, long = results["text_only"]
    assert short["output_tokens"] == 4
    assert long["failure"]["reason"] == "request_rejected"
    if "text_model" in results:
        one, other = results["text_model"]
        assert one == other
        assert one["failure"] is None


def test_threads_make_the_inputs_that_vllm_makes(results: dict[str, Any]) -> None:
    made = results["inputs_of_threads"]
    assert made["same"] == [True] * 12
    assert made["again"] == [None]  # the engine has its pixels
    assert made["ids"]


def test_pictures_wait_for_the_engine(results: dict[str, Any]) -> None:
    drawn_at = results["bounded_pictures"]  # two in flight, two prepared by one thread, one taken, one that is drawn
    assert 3 <= max(drawn_at["label"]) <= 6
    assert 3 <= max(drawn_at["aspects"]) <= 6


def test_a_failed_step_is_a_dead_engine(results: dict[str, Any]) -> None:
    assert results["dead_engine"] == "the engine failed while computing (RuntimeError: out of memory)"
