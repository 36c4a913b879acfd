"""The command `fgvr`: one word per script of the project, for those who installed it with pip.

    fgvr demo                                  # python pipelines/full.py --config demo
    fgvr run --config my.yaml --run.name birds # python pipelines/full.py --config my.yaml --run.name birds
    fgvr status runs/birds

The scripts live in the packages `pipelines` and `tune`. In a checkout these are top-level packages. A wheel ships them
in `fgvr/_app/`: names as general as these must not stand at the top of somebody's site-packages.
`find_packages_of_app` puts that folder on the path of this process alone. Ray's workers get it by PYTHONPATH
(`cluster/session.py`), and children that multiprocessing spawns inherit the path. So modules keep their names, and
with them pickles and scripts.

Nothing heavy is imported here: a script is loaded when its word is given.
"""

from __future__ import annotations

import difflib
import re
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

APP: Final = Path(__file__).parent / "_app"
"""Where a wheel has the packages `cluster`, `pipelines` and `tune`; in a checkout there is no such folder."""

GROUPS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "The whole job": {
        "demo": ("pipelines.full", "the whole job on drawn birds, with tiny models, on two CPU cores"),
        "run": ("pipelines.full", "the whole job on your photos: names, classifier, predictions, report"),
        "plan": ("pipelines.plan", "requests, tokens, hours and US$ of a job before it starts"),
        "check": ("pipelines.check", "what is wrong with the photos, before money is spent"),
    },
    "A run that exists": {
        "status": ("pipelines.status", "progress, failures, and the command that continues a run"),
        "review": ("pipelines.review", "correct names and photos in a browser, and audit them"),
        "diff": ("pipelines.diff", "what changed between two runs"),
        "issues": ("pipelines.issues", "labels that are probably wrong, the likeliest first"),
        "infer": ("pipelines.infer", "classify photos with a trained model"),
        "drift": ("pipelines.drift", "what has changed since training, and photos that fit nothing"),
        "export": ("pipelines.export", "models, named photos and vectors for other tools, and answers back"),
        "evaluate": ("pipelines.evaluate", "measure every method and what the run cost"),
        "compare": ("pipelines.compare", "which backbone for the student"),
        "sweep": ("tune.sweep", "find the best learning rates, k, loss, alpha and more"),
        "cache": ("pipelines.cache", "show and clean what this machine caches"),
    },
    "One stage (computes what it needs, and stops there)": {
        "ingest": ("pipelines.ingest", "list the photos"),
        "embed": ("pipelines.embed", "image vectors"),
        "selection": ("pipelines.selection", "which images the MLLM is asked about"),
        "rounds": ("pipelines.rounds", "ask in two rounds"),
        "duplicates": ("pipelines.duplicates", "images that show the same photo"),
        "label": ("pipelines.label", "names from the multimodal LLM"),
        "votes": ("pipelines.votes", "what every source of labels says"),
        "reask": ("pipelines.reask", "ask again about doubtful labels"),
        "candidates": ("pipelines.candidates", "a weighted set of names per image"),
        "near": ("pipelines.near", "learn prompts on candidate sets"),
        "parents": ("pipelines.parents", "the tree of kinds above the names"),
        "heads": ("pipelines.heads", "classifiers on stored vectors"),
        "questions": ("pipelines.questions", "yes/no questions about visible aspects"),
        "aspects": ("pipelines.aspects", "p(yes) of every question"),
        "looks": ("pipelines.looks", "labels and aspects in one pass"),
        "signatures": ("pipelines.signatures", "a language model's answers about each class"),
        "class-scores": ("pipelines.class_scores", "log-likelihood of every class name"),
        "pool": ("pipelines.pool", "what each photo teaches the student"),
        "makd": ("pipelines.makd", "train a small student"),
        "calibration": ("pipelines.calibration", "from which score on a precision can be promised"),
        "second-looks": ("pipelines.second_looks", "the MLLM chooses where the student is not sure"),
        "cascade": ("pipelines.cascade", "who names each photo under a promised precision"),
        "adapt": ("pipelines.adapt", "the multimodal LLM learns from trusted names (experimental)"),
        "augment": ("pipelines.augment", "generated pictures of rare names"),
        "detect": ("pipelines.detect", "an object detector with the aspect loss"),
        "distill-encoder": ("pipelines.distill_encoder", "a small encoder from another one's vectors"),
    },
}
"""Heading → word → (module, what it does)."""
COMMANDS: Final = {word: module for group in GROUPS.values() for word, (module, _) in group.items()}

_SCRIPT = re.compile(r"(?:\.venv/bin/)?python3? ((?:pipelines|tune)/\w+)\.py")
_WORDS: Final = {module.replace(".", "/"): word for word, module in reversed(COMMANDS.items()) if word != "demo"}

_called: str | None = None  # the word after `fgvr`; a process runs one script


def program() -> str | None:
    """How usage lines name this program: `fgvr status`; None where a script was started, as argparse then knows."""
    return None if _called is None else f"fgvr {_called}"


def as_called(text: str) -> str:
    """Help or a message with scripts named as the user can call them: `fgvr status` where `fgvr` was started."""
    if _called is None:
        return text
    return _SCRIPT.sub(lambda found: f"fgvr {_WORDS[found[1]]}" if found[1] in _WORDS else found[0], text)


def find_packages_of_app() -> None:
    """Make `cluster`, `pipelines` and `tune` importable where a wheel installed them; elsewhere they are already."""
    if APP.is_dir() and str(APP) not in sys.path:
        sys.path.insert(0, str(APP))


def listing() -> str:
    """The page of `fgvr --help`."""
    lines = [
        "usage: fgvr COMMAND [OPTIONS]",
        "",
        "From millions of unlabelled photos to names, a small classifier and predictions.",
    ]
    for heading, group in GROUPS.items():
        lines += ["", f"{heading}:", *(f"  {word:16}{does}" for word, (_, does) in group.items())]
    lines += [
        "",
        "`fgvr COMMAND --help` shows a command's options, `fgvr --version` the version.",
        "Start with `fgvr demo`; then `fgvr plan --config photos --ingest.source.path ~/photos`.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 2 for a word that is no command, otherwise the exit status of the script.

    Args:
        argv: the words after `fgvr`; None: those of this process.
    """
    global _called  # scripts ask for it in the same process
    words = list(sys.argv[1:] if argv is None else argv)
    word = words[0] if words else "--help"
    if word in {"-h", "--help", "help"}:
        sys.stdout.write(listing())
        return 0
    if word in {"-V", "--version"}:
        from fgvr import __version__

        sys.stdout.write(f"fgvr {__version__}\n")
        return 0
    word = word.replace("_", "-")
    if word not in COMMANDS:
        near = difflib.get_close_matches(word, COMMANDS, 1)
        meant = f"; did you mean `fgvr {near[0]}`?" if near else "."
        sys.stderr.write(f"fgvr: there is no command {words[0]!r}{meant} `fgvr --help` lists them\n")
        return 2
    find_packages_of_app()
    module = COMMANDS[word]
    if find_spec(module.partition(".")[0]) is None:
        sys.stderr.write(
            f"fgvr: the package {module.partition('.')[0]} is not installed: install fgvr again, or start "
            "`python -m fgvr` in the root of a checkout\n"
        )
        return 2
    _called, sys.argv = word, [sys.argv[0], *words[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0
