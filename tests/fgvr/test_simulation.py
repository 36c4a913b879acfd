import numpy as np
import pytest

from cluster.fingerprint import MADE_UP, made_up
from fgvr.simulation import generator, kind_of, uniforms


def test_numbers_are_uniform_and_decided_by_the_key() -> None:
    values = np.array([uniforms("a", n, count=8) for n in range(2000)])
    # Mean of 16,000 uniform numbers: 1/2 with a standard error of 0.0023; their variance is 1/12.
    assert abs(values.mean() - 0.5) < 0.012
    assert abs(values.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(values.T) - np.eye(8)).max() < 0.12
    assert uniforms("a", 1) == uniforms("a", 1) != uniforms("b", 1)
    assert generator("a", 1).random() == generator("a", 1).random() != generator("a", 2).random()


def test_kinds_are_equally_frequent() -> None:
    counts = np.bincount([kind_of(f"image {n}", 10, 0) for n in range(10_000)], minlength=10)
    assert len(counts) == 10
    assert abs(counts - 1000).max() < 150  # five standard deviations of a binomial


@pytest.mark.parametrize(
    ("decides", "inputs", "names"),
    [
        ({"mllm": {"kind": "vllm"}, "k": 3}, [{}], []),
        ({"mllm": {"kind": "simulated", "names": 3}}, [{}], ["mllm"]),
        ({"label": {"mllm": {"kind": "simulated"}}, "list": [1, {"kind": "other"}]}, [], ["mllm"]),
        ({"k": 3}, [{}, {MADE_UP: ["vectors"]}], ["vectors"]),  # what rests on made-up tables is made up, too
        ({"mllm": {"kind": "simulated"}}, [{MADE_UP: ["vectors"]}, {MADE_UP: ["mllm"]}], ["mllm", "vectors"]),
    ],
)
def test_what_rests_on_simulated_models(decides: object, inputs: list[dict[str, list[str]]], names: list[str]) -> None:
    assert made_up(decides, inputs) == names
