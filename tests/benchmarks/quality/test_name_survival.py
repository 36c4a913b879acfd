"""Names survive the clean-up of answers in the phrases of real models; how a pair is made, by hand."""

import pytest

from benchmarks.quality.name_survival import NAMES, PHRASES, losses, read_names, said, survives
from fgvr.schemas import Failure, Reason


def test_a_pair_by_hand() -> None:
    assert said("This is {a} {}.", "Eagle Owl") == "This is an Eagle Owl."
    assert said("This is {a} {}.", "The Ordinary Serum") == "This is The Ordinary Serum."
    assert said("{json}", 'Toys "R" Us') == '{"label": "Toys \\"R\\" Us"}'
    assert said("\\boxed{{{}}}", "Kea") == "\\boxed{Kea}"
    assert survives("the kea.", "Kea")
    assert not survives("Keas", "Kea")
    assert not survives(Failure(Reason.EMPTY_ANSWER, ""), "Kea")


@pytest.mark.slow
def test_names_survive() -> None:
    """Each name in every third phrase, another third for the next name: in at least 28 phrases of 85."""
    pairs = lost = 0
    missing = []
    assert len(PHRASES) >= 75
    for file, least in (("presets.txt", 1_800), ("products.txt", 200)):
        names = read_names(NAMES / file)
        assert len(names) >= least
        for third in range(3):
            found = list(losses(names[third::3], PHRASES[third::3]))
            pairs += len(names[third::3]) * len(PHRASES[third::3])
            lost += len(found)
            missing += [f"{loss.name!r} in {loss.phrase!r} -> {loss.found!r}" for loss in found]
    assert lost <= 0.005 * pairs, "\n".join(missing)
