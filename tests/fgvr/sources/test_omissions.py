from concurrent.futures import ThreadPoolExecutor

import pytest

from fgvr.sources.omissions import KEPT, Omissions, Why, ending_of, sentences


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("photos/IMG_1.HEIC", ".heic"),
        ("a.tar.gz", ".gz"),
        ("v1.00.jpg", ".jpg"),
        ("README", "without ending"),
        ("folder.d/README", "without ending"),
        ("trailing.", "without ending"),
        (".profile", "without ending"),
        ("x.<script>", "other endings"),
        ("x.\x1b[31m", "other endings"),
        ("x." + "y" * 200, "other endings"),
        ("caf\udce9.\udce9", "other endings"),
    ],
)
def test_endings(name, ending):
    assert ending_of(name) == ending


def test_a_million_endings_take_no_more_memory_than_a_few_and_hide_no_photo():
    omissions = Omissions()
    for number in range(100_000):
        omissions.count(Why.ENDING, ending_of(f"a.x{number}"))
    for _ in range(3):
        omissions.count(Why.ENDING, ".heic")
    counts = omissions.facts()["ending"]
    assert len(counts) == KEPT + 2
    assert sum(counts.values()) == 100_003
    assert (counts["other endings"], counts[".heic"]) == (100_000 - KEPT, 3)
    said = sentences(omissions.facts())["ending"]
    assert said.startswith("100,003 files were left out by their ending: 3 .heic, 99,936 other endings, 1 .x")
    assert len(said) < 250


def test_counts_of_threads_add_up():
    whole = Omissions()

    def one(_: int) -> None:
        part = Omissions()
        for _ in range(100):
            part.count(Why.HIDDEN, ".*")
            part.count(Why.ENDING, ".txt")
        whole.add(part)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(50)))
    assert whole.facts() == {"ending": {".txt": 5_000}, "hidden": {".*": 5_000}}


def test_in_words():
    facts = {"ending": {".txt": 2, ".heic": 1}, "hidden": {".*": 1}, "excluded": {"@eaDir": 2}, "beside": {".json": 3}}
    assert list(sentences(facts).values()) == [
        "3 files were left out by their ending: 1 .heic, 2 .txt (ingest.source.extensions)",
        "1 hidden file or folder was left out",
        "2 files or folders were left out by their name: 2 @eaDir (ingest.source.exclude)",
        "3 files beside photos in the archives were not read: 3 .json",
    ]
    assert sentences({"ending": {".cr2": 1}})["ending"] == (
        "1 file was left out by its ending: 1 .cr2 (ingest.source.extensions)"
    )
    assert sentences({}) == {}
