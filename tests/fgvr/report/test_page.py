import html.parser
import json
from collections import Counter
from dataclasses import replace

import pytest
from sample_report import HOSTILE_FILE, RED_DOT, SCRIPT, content

from fgvr.hierarchy.kinds import Kinds
from fgvr.hierarchy.levels import hierarchy_scores
from fgvr.names.spelling import fold_name
from fgvr.report import console
from fgvr.report.page import duration, render
from fgvr.schemas import Reason

SCRIPT_KEY = fold_name(SCRIPT)


class Elements(html.parser.HTMLParser):
    """Tags, attributes and text as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.text += " " if tag in {"td", "th", "dd", "dt"} else ""
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_every_reason_has_a_meaning():
    assert set(console.FAILURE_MEANINGS) == {reason.value for reason in Reason}


@pytest.mark.parametrize("scored", [True, False])
def test_hostile_names_stay_text(scored):
    page = Elements(render(content(scored=scored)))
    assert page.tags["script"] == 0
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert SCRIPT in page.text  # shown, letter by letter
    assert HOSTILE_FILE in page.text
    assert page.open == []  # every element is closed


def test_nothing_comes_from_outside():
    page = render(content())
    elements = Elements(page)
    links = [value for name, value in elements.attributes if name in {"src", "href", "srcset", "data", "action"}]
    targets = {f"#{value}" for name, value in elements.attributes if name == "id"}
    assert {link for link in links if link not in targets} == {
        RED_DOT,
        "predictions.csv",
        "predictions.parquet",
        "names.csv",
    }
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_what_a_reader_looks_for():
    text = " ".join(Elements(render(content())).text.split())
    for expected in [
        "540 images of split “test”, 36 classes",
        "Student + aspects",
        "78.0 ±2.0",  # sACC of makd, 70 + 8
        "model all-MiniLM-L6-v2",
        "43 names on 98 images",
        "The true name is in 91.0% of the sets",
        "candidate sets agree better with labels that they have not seen (on 100 of 900 held-out images",
        "true: labels 0.65 right, neighbourhoods 0.91 pure",
        "65.0% of the MLLM's labels, 83.0% of the heaviest candidates before training, 90.0% after it",
        "0.33 → 0.92",
        "human labels helped to choose or check images",
        "labels corrupt 3 an image, but truncated or damaged",
        "13,900 tokens",
        "and 13 more names on 13 images",
    ]:
        assert expected in text


def test_no_human_label_is_claimed_only_where_none_was_used():
    given = content()
    page = render(replace(given, results=replace(given.results, human_labels=())))
    assert "no human label was used" in page
    assert "uses human labels" not in page


def test_what_a_reader_looks_for_among_aspects():
    page = render(content())
    text = " ".join(Elements(page).text.split())
    for expected in [
        "13 questions about 1,080 training images of 36 classes (names that a method gave)",
        "an entropy of 5.17 bits",
        "finds the right class for 93.9% of 1,080 images",
        "Is the body blue? 1 0.25 0.80 -8.4 ±2.0 0.98 99.1%",  # 1.96 standard errors of 0.01
        "1 more question",
        "Is it dull? 13 0.50 0.00 – –",
        "chance alone gives 0.02",
        "on 108 images that it was not trained on",
        "9 images (4 of them held out of training)",
        "0.40 · –",
        "217,332, 8,224 of them (3.9% more)",
        "500 images/s in the fastest epoch, 510 without aspects: +2.0% time",
        "0.96 ms per image and question",
    ]:
        assert expected in text
    assert page.count('d="M4 4h0"') == 1
    assert 'height="44.0"' in page  # the tallest bar of a histogram fills it
    assert 'height="8.8"' in page  # 6 of 30 classes


def test_each_method_says_whose_names_it_learned_from():
    given = content()
    told = replace(given.results, learned_from={"near": f"old ({SCRIPT}); random images", "mllm": ""})
    page = Elements(render(replace(given, results=told)))
    assert f"Learned from: old ({SCRIPT}); random images" in page.text
    assert page.text.count("Learned from:") == 1
    methods = told.as_json()["methods"]
    assert methods["near"]["learned_from"] == told.learned_from["near"]
    assert "learned_from" not in methods["mllm"]


def test_labels_that_are_probably_wrong():
    text = " ".join(Elements(render(content())).text.split())
    assert "Labels that are probably wrong" in text
    assert "its neighbours' labels: 3% Azure Finch, 71% Crested Azure Finch or rather Crested Azure Finch truth" in text
    assert 'id="issues"' not in render(replace(content(), issues=[]))


def test_the_verdict_comes_first():
    text = " ".join(Elements(render(content())).text.split())
    start = text.index("In short")
    assert start < text.index("Results")
    for expected in [
        "NeaR. 480 of 540 are right",
        "Not compared: Student + aspects",
        "3,580 photos with a name, 15 too unsure for one, 5 failed",
        "Some evaluation images taught Student, so their scores are too high.",
        "4 rows failed",
        "python pipelines/review.py runs/demo",
    ]:
        assert expected in text[start : start + 1500]
    without = " ".join(Elements(render(replace(content(), tally=None))).text.split())
    assert "None yet with this config: run python pipelines/infer.py" in without


def test_contents_name_every_section_that_is_there_and_no_other():
    page = Elements(render(content(with_aspects=False)))
    links = [value for name, value in page.attributes if name == "href" and value.startswith("#")]
    assert "#aspects" not in links
    assert links == [f"#{value}" for name, value in page.attributes if name == "id" and value != "verdict"]
    assert len(links) > 10


def test_nothing_scored_on_its_training_photos_is_bold():
    given = content()
    rows = dict(zip(given.results.methods, render(given).partition("<tbody>")[2].split("</tr>"), strict=False))
    assert "best" in rows["makd"]  # the highest scores
    told = replace(given.results, scored_on_training=("makd", "base"))
    page = render(replace(given, results=told)).partition("<tbody>")[2].split("</tr>")
    assert "best" not in page[4]
    assert "scored on photos that it learned from" in page[4]
    assert "best" in page[2]  # NeaR is the best of the others
    assert "uses human labels" in rows["makd"]
    assert "uses human labels" not in rows["near"]
    seen = replace(given.results, evaluation=replace(given.results.evaluation, trained_on=True))
    assert 'class="best"' not in render(replace(given, results=seen))


def test_classes_and_confusions():
    text = " ".join(Elements(render(content())).text.split())
    assert "Wren 4 1 25% 1 to 81% Marsh Tern (3 times)" in text  # exact interval of 1 of 4
    assert "Wren Marsh Tern 3 1" in text
    assert "Names taken for each other" not in Elements(render(content(scored=False))).text


def test_start_up_is_not_extrapolated():
    given = content()
    costs = given.results.costs
    slow = replace(costs.methods["mllm"], timed_images=60)
    page = render(replace(given, results=replace(given.results, costs=replace(costs, methods={"mllm": slow}))))
    assert "17 h 30 min" in render(given)
    assert "17 h 30 min" not in page
    assert "fewer than 1,000 photos were timed" in page


def test_without_aspects_nothing_is_said_of_them():
    page = render(content(with_aspects=False))
    assert 'id="aspects"' not in page
    assert "Is the body blue?" not in page


def test_without_truth_there_are_no_scores():
    text = " ".join(Elements(render(content(scored=False))).text.split())
    assert "No true classes are known" in text
    assert "The true name is in" not in text
    assert "sACC" not in text
    assert "candidate sets agree better" in text
    assert "true: labels" not in text
    assert "of the heaviest candidates" not in text
    assert "Agreement" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (425, "7 min 5 s"), (11_520, "3 h 12 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_names_by_level():
    """A tree of two seabirds and a wader; the second method answers kinds."""
    kinds = Kinds(
        {"auk": "seabird", "gull": "seabird", "plover": SCRIPT_KEY, "seabird": "", SCRIPT_KEY: ""},
        {"auk": "auk", "gull": "gull", "plover": "plover", "seabird": "seabird", SCRIPT_KEY: SCRIPT},
        (SCRIPT, "kind"),
        {"auk": (1, 1), "gull": (1, 1), "plover": (1, 1), "seabird": (0, 0), SCRIPT_KEY: (0, 0)},
    )
    true = ["auk", "auk", "gull", "plover", "dodo"]
    said = {"near": ["auk", "gull", "gull", "auk", "auk"], "makd": ["auk", "seabird", "", "plover", "moa"]}
    found = {name: hierarchy_scores(names, true, kinds, resamples=0) for name, names in said.items()}
    report = content()
    page = Elements(render(replace(report, results=replace(report.results, hierarchy=found))))
    assert page.tags["script"] == 0
    shown = " ".join(page.text.partition("By level")[2].split())
    assert "over the 4 images whose true name it has (1 left out)" in shown
    assert f"Method {SCRIPT} kind Precision Recall F1 Height of mistakes Not wrong Names not in it" in shown
    # near: seabird, seabird, seabird and a wader taken for a seabird; two species right. Shared parts 2, 1, 2 and 0 of
    # 8 kinds on either side; the mistakes meet below seabird (height 1) and in the root (height 2).
    assert "NeaR 75.0 50.0 62.5 62.5 62.5 1.50 50.0 0.0%" in shown
    # makd: right, a kind above, nothing, right. Shared 2 + 1 + 2 of the 5 kinds that it names and of 8 true ones; its
    # only mistake has the height of seabird, and nothing that it says is wrong.
    assert "75.0 50.0 100.0 62.5 76.9 1.00 100.0 0.0%" in shown
    facts = json.loads(replace(report.results, hierarchy=found).to_json())["hierarchy"]["makd"]
    assert (facts["levels"][1]["answered"], facts["left_out"]) == (50, 1)
    assert 'id="hierarchy"' not in render(report)
