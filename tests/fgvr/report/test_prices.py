"""Price files."""

from pathlib import Path

import pytest

import fgvr
from fgvr.report.prices import SHIPPED_FILE, ModelPrice, PricesError, read_prices

EXAMPLE = Path(__file__).parents[3] / "docs" / "prices.yaml"


def test_the_shipped_example_is_one() -> None:
    prices = read_prices(str(EXAMPLE))
    assert prices.models["gpt-4o"] == ModelPrice(input=2.5, cached=1.25, output=10)
    assert prices.date.year >= 2026
    assert prices.source


def test_cached_tokens_are_among_those_of_the_prompt() -> None:
    # 600 whole ones at 2.50, 400 cached ones at 1.25, 100 at 10: 1,500 + 500 + 1,000 millionths.
    assert ModelPrice(input=2.5, cached=1.25, output=10).usd(1000, 400, 100) == pytest.approx(0.003)
    assert ModelPrice(input=2.5, output=10).usd(1000, 400, 100) == pytest.approx(0.0035)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: {}\nsource: x\n", "date: Field required"),
        ("date: 2026-01-01\nsource: x\nmodels: {m: {input: 1}}\n", r"models\.m\.output: Field required"),
        ("date: 2026-01-01\nsource: x\nmodels: {m: {input: -1, output: 1}}\n", r"models\.m\.input"),
        ("date: 2026-01-01\nsource: x\ngpu_hours: 2\n", "gpu_hours: Extra inputs"),
        ("- a\n- b\n", "the file: "),
        ("date: [", "no YAML file"),
        ("", "the file: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "prices.yaml").write_text(content)
    with pytest.raises(PricesError, match=rf"evaluate\.prices: .*{message}"):
        read_prices(str(tmp_path / "prices.yaml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match="there is no file"):
        read_prices(str(tmp_path / "prices.yaml"))


def test_the_shipped_prices_are_a_part_of_the_package_and_those_of_the_documentation() -> None:
    assert SHIPPED_FILE.is_file()
    assert SHIPPED_FILE.is_relative_to(Path(fgvr.__file__).parent)
    assert read_prices("shipped") == read_prices(str(EXAMPLE))


def test_a_submitted_job_finds_both() -> None:
    """By Ray's own packaging, which leaves out what .rayignore names."""
    from ray._private.runtime_env import packaging

    root = EXAMPLE.parents[1]
    ignored = packaging.get_excludes_from_ignore_files(root, include_gitignore=True)
    assert not any(leaves_out(file) for leaves_out in ignored for file in (EXAMPLE, SHIPPED_FILE))
    assert any(leaves_out(root / "docs" / "scaling.md") for leaves_out in ignored)
