"""Printed tables: means and deviations worked by hand, the paper's numbers in place, reasons for missing ones."""

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.grocery.halves import write_captions, write_halves
from benchmarks.harness import mean_and_deviation
from benchmarks.papers.data_sets import grocery_models
from benchmarks.papers.near_print import average, cost_table, draw, published, scores_table
from benchmarks.papers.near_rows import MLLM, NEAR, TABLES, ZERO_SHOT, Row
from benchmarks.papers.near_runs import DataSetRuns, Measured
from benchmarks.papers.near_tables import DataSet, find_data_set, with_expert
from fgvr.errors import UserError
from fgvr.report.results import MethodCost


def measured(sacc, cacc=50.0, siou=25.0, top1=12.5):
    return Measured({"sacc": sacc, "cacc": cacc, "siou": siou, "top1": top1})


def cells(text):
    """The lines of a Markdown table without its rule, as lists of stripped cells."""
    lines = [line for line in text.splitlines() if not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_deviation_is_that_of_a_sample():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, / 2 = 7, root 2.6
    assert mean_and_deviation([1.0, 2.0, 6.0]) == "3.0 ± 2.6"
    assert mean_and_deviation([71.25]) == "71.2"


def test_a_row_shows_its_seeds_and_the_papers_numbers_stand_below_it():
    text = scores_table("Table 2, cub", "2", (NEAR,), [[measured(70.0), measured(72.0)]], "cub")
    head, ours, *paper = cells(text)
    assert head == ["Table 2, cub", "sACC", "cACC", "sIoU", "top-1"]
    assert ours == ["NeaR", "71.0 ± 1.4", "50.0 ± 0.0", "25.0 ± 0.0", "12.5 ± 0.0"]
    assert paper[0] == ["· paper, GPT-4o", "78.7", "56.6", "58.1", "–"]
    assert [line[0] for line in paper] == ["· paper, GPT-4o", "· paper, Gemini Flash", "· paper, Gemini Pro"]


def test_a_data_set_that_the_paper_lacks_has_our_numbers_alone():
    assert len(cells(scores_table("Table 2, demo", "2", (NEAR,), [[measured(70.0)]], ""))) == 2


def test_a_dash_and_an_out_of_memory_of_the_paper_are_printed_as_such():
    cased = Row("CaSED", "cased", published="cased")
    assert cells(scores_table("t", "2", (cased,), [[measured(1.0)]], "pets"))[-1][1:4] == ["63.6", "60.9", "–"]
    listed = TABLES["4"][0]
    assert cells(scores_table("t", "4", (listed,), [[measured(1.0)]], "cars"))[-1][1] == "out of memory"


def test_a_method_that_could_not_run_gives_its_reason_and_no_number():
    text = scores_table("t", "2", (NEAR,), [[measured(70.0), Measured(reason="there is no database")]], "")
    assert cells(text)[1] == ["NeaR", "not run: there is no database", "", "", ""]


def test_averages_are_taken_seed_by_seed_and_only_over_all_data_sets():
    one, other = [measured(60.0), measured(70.0)], [measured(80.0), measured(70.0)]
    assert [seed.values["sacc"] for seed in average([one, other])] == [70.0, 70.0]
    assert average([one, [measured(80.0), Measured(reason="no")]])[1].reason == "no"


def test_the_papers_averages_are_the_means_of_its_columns():
    """Catches slips in the copied numbers; cells that the paper itself has inconsistent are named here."""
    inconsistent = {("LLaVA-1.5-13B", 0), ("LLaVA-1.5-13B", 1), ("LLaVA-1.5-13B", 2)}
    found = set()
    for models in published()["table2"].values():
        for model, sets in models.items():
            for place, mean in enumerate(sets["average"]):
                numbers = [sets[name][place] for name in ("cub", "cars", "dogs", "flowers", "pets")]
                if mean is not None and abs(sum(numbers) / 5 - mean) > 0.11:
                    found.add((model, place))
    assert found == inconsistent


def test_the_table_of_costs_is_a_mean_over_seeds_with_the_papers_below():
    costs = [MethodCost(1.0, 0.5, 2.0, 3.0), MethodCost(2.0, 0.5, 4.0, 5.0)]
    lines = cells(cost_table("Table 1", (NEAR,), [[Measured({"sacc": 1.0}, cost) for cost in costs]]))
    assert lines[0] == ["Table 1", "learning h", "h for 10,000 images", "US$"]
    assert lines[1] == ["NeaR", "2.000", "3.000", "4.00"]
    assert lines[2] == ["· paper, GPT-4o", "0.6", "0.03", "1"]


def test_a_cost_without_a_price_is_unknown():
    asked = Measured({"sacc": 1.0}, MethodCost(0.0, 0.0, 2.0, None))
    lines = cells(cost_table("Table 1", (MLLM,), [[asked, Measured({"sacc": 1.0}, MethodCost(0.0, 0.0, 2.0, 1.0))]]))
    assert lines[1] == ["MLLM, each image", "0.000", "2.000", "unknown"]


class FlowlessRuns(DataSetRuns):
    """Stops before any stage is computed."""

    def _measure(self, config, row):
        return Measured(
            {
                "seed": config.near.seed,
                "label": config.label.seed,
                "shots": config.label.images.per_class,
                "loss": config.near.loss,
            }
        )


def test_a_row_lays_its_changes_over_seed_and_shots():
    runs = FlowlessRuns({"label": {"images": {"per_class": 10}}, "near": {"lr": 0.5}}, None)
    shots = {"label": {"images": {"per_class": 3}}}
    assert runs.measure(TABLES["fig2"][2], 7, shots).values == {"seed": 7, "label": 0, "shots": 3, "loss": "ce"}


def test_only_sampled_answers_have_a_seed():
    listed, sampled, _ = TABLES["4"]
    runs = FlowlessRuns({}, None)
    assert [runs.measure(row, 7).values["label"] for row in (listed, sampled)] == [0, 7]


def test_a_method_that_this_version_does_not_know_is_a_reason():
    assert "evaluate.methods" in FlowlessRuns({}, None).measure(Row("?", "guessing"), 0).reason


def test_the_figure_has_a_line_for_each_row_with_numbers(tmp_path):
    found = {m: [[measured(60.0 + m), measured(62.0)], [Measured(reason="no")]] for m in (1, 3)}
    draw(tmp_path / "fig2.svg", "demo", (NEAR, ZERO_SHOT), found)
    text = (tmp_path / "fig2.svg").read_text()
    assert "<!-- NeaR -->" in text
    assert "<!-- ZS-CLIP" not in text


def test_grocery_without_its_models_says_how_to_train_them(tmp_path):
    with pytest.raises(UserError, match=r"benchmarks\.grocery\.models --model mllm"):
        find_data_set("grocery", tmp_path, tmp_path / "models", [])


def test_the_halves_hold_every_test_photo_once_by_the_hash_of_its_path(tmp_path):
    root = tmp_path / "dataset"
    for split in ("train", "val", "test"):
        (root / split / "Fruit/Lemon").mkdir(parents=True)
    (root / "classes.csv").write_text("Class Name,Class ID,Coarse Class Name,Coarse Class ID\nLemon,0,Lemon,0\n")
    photos = [f"test/Fruit/Lemon/Lemon_{number:03d}.jpg" for number in range(20)]
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text(f"{split}/Fruit/Lemon/Lemon_001.jpg, 0, 0\n")
        (root / split / "Fruit/Lemon/Lemon_001.jpg").touch()
    for path in photos:
        (root / path).touch()
    (root / "test.txt").write_text("".join(f"{path}, 0, 0\n" for path in photos))
    write_halves(tmp_path, tmp_path / "halves.csv")
    with (tmp_path / "halves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["uri"].split("/dataset/")[1] for row in rows] == photos
    even = [int(hashlib.sha256(path.encode()).hexdigest(), 16) % 2 == 0 for path in photos]
    assert [row["split"] == "train" for row in rows] == even
    assert 0 < sum(even) < 20


def test_captions_are_the_sentences_of_the_descriptions_with_the_name(tmp_path):
    (tmp_path / "classes.csv").write_text("Class,ID,Coarse,ID,Icon,Text\nPink-Lady,2,Apple,0,/icon.jpg,/texts/2.txt\n")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/2.txt").write_text("Crisp and sweet.\nFrom Italy, ca 2.5 kg!")
    write_captions(tmp_path, tmp_path / "captions.txt")
    lines = (tmp_path / "captions.txt").read_text().splitlines()
    assert lines == ["Pink Lady. Crisp and sweet.", "Pink Lady. From Italy, ca 2.5 kg!"]


def test_data_sets_with_an_expert_get_it_unless_a_language_model_is_named():
    demo = DataSet("demo", {}, "", "ornithologist")
    photos = DataSet("mine", {"ingest": {"source": {"kind": "folder", "path": "photos"}}}, "")
    llm = with_expert(demo, "http://here").tree["baselines"]["finer"]["llm"]
    assert (llm["model"], llm["base_url"]) == ("ornithologist", "http://here")
    assert with_expert(photos, "http://here") == photos
    own = replace(demo, tree={"questions": {"llm": {"kind": "openai", "model": "gpt-4o"}}})
    assert with_expert(own, "http://here") == own


class AskedRuns(DataSetRuns):
    """Says which model a row asks."""

    def _measure(self, config, row):
        return Measured(reason=Path(config.mllm.model).name)


def test_methods_and_rows_can_have_a_model_of_their_own(tmp_path):
    for name in ("vqa", "list"):
        (tmp_path / name).mkdir()
    runs = AskedRuns({"mllm": {"kind": "vllm", "model": "/tiny/mllm"}}, None, grocery_models(tmp_path))
    assert {row.method: runs.measure(row, 0).reason for row in TABLES["2"]} == {
        **dict.fromkeys(("mllm", "cased", "zs_wordnet", "zs_clip", "prototypes", "near"), "mllm"),
        **dict.fromkeys(("finer", "findr"), "vqa"),
    }
    assert [runs.measure(row, 0).reason for row in TABLES["4"]] == ["list", "mllm", "mllm"]


def test_a_row_without_its_model_says_what_trains_it(tmp_path):
    runs = AskedRuns({"mllm": {"kind": "vllm", "model": "/tiny/mllm"}}, None, grocery_models(tmp_path))
    listed, _, near = (runs.measure(row, 0) for row in TABLES["4"])
    assert "python -m benchmarks.papers.listing_models --config grocery" in listed.reason
    assert near.reason == "mllm"


def test_only_the_shipped_mllm_of_the_field_guide_has_one_that_lists(tmp_path):
    assert "list" in find_data_set("demo", tmp_path, tmp_path, []).own
    assert not find_data_set("demo", tmp_path, tmp_path, ["mllm.model=OpenGVLab/InternVL3_5-8B-HF"]).own
