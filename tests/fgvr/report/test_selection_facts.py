"""What is said about the choice of images: with estimates, and where there are none."""

import json
from dataclasses import asdict, replace

from fgvr.report.console import results_table
from fgvr.report.page import render
from fgvr.report.selection import SelectionFacts
from tests.fgvr.report.sample_report import content

FACTS = SelectionFacts(
    how="medoids",
    rounds=2,
    asked=1000,
    pool=20_000,
    without_vector=3,
    why={"medoid": 480, "random": 20, "uncovered": 300, "disputed": 200},
    classes=200,
    classes_reached=190,
    covered=0.614,
    doubled=0.7,
    new_names=0.12,
)


def test_all_is_said():
    text = " ".join(FACTS.sentences())
    for part in (
        "1,000 of 20,000 images: one image per cluster",
        "300 chosen after the first answers, far from all named images; 200 chosen after the first answers, between",
        "20 drawn at random",
        "3 images have no vector",
        "Classes reached: 190 of 200.",
        "For an estimated 61% of the images",
        "it is no share of right names",
        "With twice as many questions it would be 70%.",
        "some 12% would get a name that no image has yet",
    ):
        assert part in text


def test_where_nothing_is_known_nothing_is_said():
    text = " ".join(SelectionFacts("typical", 1, 5, 5, 0, {"typical": 5}).sentences())
    assert text == (
        "5 of 5 images: the most typical image of each cluster. What they cover is not estimated: too few of them have "
        "a name, or no other image is there."
    )
    assert "it would be no more." in " ".join(replace(FACTS, doubled=0.6).sentences())


def test_page_console_and_metrics_show_it():
    shown = content()
    results = replace(shown.results, selection=FACTS)
    page = render(replace(shown, results=results))
    assert 'id="selection"' in page
    assert "Classes reached: 190 of 200." in page
    assert "Classes reached: 190 of 200." in results_table(results.to_json())
    assert json.loads(results.to_json())["selection"] == asdict(FACTS)


def test_with_random_images_nothing_changes():
    shown = content()
    assert 'id="selection"' not in render(shown)
    assert "selection" not in shown.results.as_json()
