import pytest

from fgvr.failures import allowed_failures


@pytest.mark.parametrize(
    ("share", "rows", "allowed"),
    [
        (0.01, 1_000_000, 10_000),
        (0.01, 500, 5),
        (0.01, 100, 5),
        (0.01, 36, 3),
        (0.01, 9, 0),
        (0.1, 10, 1),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999… in floating point
        (0.0, 100, 0),
        (1.0, 7, 7),
        (0.5, 0, 0),
    ],
)
def test_a_share_or_a_few_of_a_small_table(share: float, rows: int, allowed: int) -> None:
    assert allowed_failures(share, rows) == allowed
