"""What computed a table, and what is said where it was not one environment."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import fgvr
from fgvr.versions import environment, is_installed, mixture, mixture_in_table, with_one_more

OLD = {"fgvr": "1.0", "torch": "2.8", "numpy": "2.0", "device": "cpu"}
NEW = {**OLD, "torch": "2.9"}


def test_an_environment_names_what_computes() -> None:
    found = environment("cuda")
    assert found["fgvr"] == fgvr.__version__
    assert found["python"] == sys.version.split()[0]
    assert (found["torch"], found["numpy"], found["ray"]) == (version("torch"), version("numpy"), version("ray"))
    assert found["device"] == "cuda"
    assert {"pillow", "timm", "open_clip", "transformers"} <= set(found)
    for name in ("torchvision", "scipy", "pycocotools", "tokenizers", "pyarrow"):
        assert found.get(name) == (version(name) if is_installed(name) else None)


def test_the_commit_is_that_of_the_working_copy_of_the_package() -> None:
    folder = Path(fgvr.__file__).parent
    head = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert head.stdout.startswith(environment()["commit"].removesuffix("-dirty"))
    else:
        assert "commit" not in environment()


def test_a_repository_around_an_environment_is_not_the_package_s(tmp_path: Path) -> None:
    from fgvr.versions import _commit

    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True)
    (tmp_path / "fgvr").mkdir()
    (tmp_path / "fgvr" / "__init__.py").write_text("")
    assert _commit(tmp_path / "fgvr") is None


def test_a_run_of_one_environment_mixes_nothing() -> None:
    assert mixture([]) == ""
    assert mixture([("samples", [OLD]), ("answers", [OLD]), ("of before", [])]) == ""
    # A stage on a GPU beside one on a CPU is as it should be.
    assert mixture([("samples", [OLD]), ("answers", [{**OLD, "device": "cuda"}])]) == ""


def test_a_run_of_two_environments_says_which_tables_are_of_which() -> None:
    said = mixture([("samples", [OLD]), ("answers", [OLD, NEW]), ("labels", [NEW])])
    assert "different versions: torch 2.8 (samples, answers) and 2.9 (answers, labels)." in said
    assert "\n" not in said
    many = [{name: str(n) for name in ("fgvr", "torch", "vllm", "timm", "pillow")} for n in (1, 2)]
    said = mixture([(f"t{n}", [many[n % 2]]) for n in range(9)])
    assert "fgvr 1 (t0, t2, t4 and 2 more) and 2 (t1, t3, t5 and 1 more); torch" in said
    assert "and 2 more, see the manifests" in said


def test_what_an_earlier_version_did_not_record_is_no_difference() -> None:
    now = {**OLD, "scipy": "1.17", "pyarrow": "21"}
    assert mixture([("samples", [OLD]), ("answers", [now])]) == ""
    assert mixture_in_table("answers", [OLD], now) == mixture_in_table("answers", [now], OLD) == ""
    said = mixture([("samples", [now]), ("labels", [OLD]), ("answers", [{**now, "scipy": "1.18"}])])
    assert "different versions: scipy 1.17 (samples) and 1.18 (answers)." in said
    assert "scipy 1.17 → 1.18" in mixture_in_table("answers", [now], {**now, "scipy": "1.18"})


def test_a_table_that_another_environment_goes_on_with() -> None:
    assert mixture_in_table("answers", [], NEW) == mixture_in_table("answers", [OLD, NEW], NEW) == ""
    said = mixture_in_table("answers", [OLD], {**NEW, "device": "cuda", "vllm": "0.1"})
    assert said.startswith("answers: begun with other versions (torch 2.8 → 2.9, device cpu → cuda, vllm none → 0.1)")
    assert with_one_more([OLD], OLD) == [OLD]
    assert with_one_more([OLD], NEW) == [OLD, NEW]
