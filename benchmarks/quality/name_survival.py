"""Whether names survive the clean-up of answers, in any phrase in which a model gives them.

    python -m benchmarks.quality.name_survival [--failures]

Every class name of every preset (`names/presets.txt`) and a list of product names (`names/products.txt`) is put into
phrases in which real models answer, and read again with `fgvr.names.answers.clean_answer`. The table says for each
phrase how many names did not come back; `--failures` lists every pair that did not, with what came out. Case and a
leading article do not count. No name and no phrase has a rule of its own in the package: what fails stands in the list.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from fgvr.names.answers import clean_answer
from fgvr.schemas import Failure

NAMES = Path(__file__).parent / "names"

PHRASES = (
    # bare, and marked as models mark
    "{}",
    "{}.",
    "**{}**",
    "`{}`",
    '"{}"',
    "'{}'.",
    "“{}”",
    "- {}",
    "1. {}",
    "{}\n",
    "### {}",
    "({})",
    # tags, boxes, turns, thoughts
    "<answer>{}</answer>",
    "<think>\nThe shape is typical. It could be something else.\n</think>\n\n{}",
    "<thinking>Hmm.</thinking>{}",
    "[THINK]Let me look.[/THINK]{}",
    "<|channel|>analysis<|message|>We need a label.<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "◁think▷Let me see.◁/think▷{}",
    "\\boxed{{{}}}",
    "<|begin_of_box|>{}<|end_of_box|>",
    "{}</s>",
    "{}<|im_end|>",
    "{}<end_of_turn>",
    "<b>{}</b><br>",
    # JSON
    "{json}",
    "```json\n{json}\n```",
    "Here is the JSON:\n{json}",
    "[{quoted}]",
    # fields
    "Label: {}",
    "**Label:** {}",
    "Answer: {}",
    "Final answer: {}",
    "Common name: {}\nScientific name: Genus species",
    "Fine-grained class label: **{}**",
    "### Label\n{}",
    "Assistant: {}",
    "Option A: {}",
    "Analysis: the shape and the colours are typical.\nFinal answer: {}",
    # chatter
    "Sure! {}",
    "Sure! The label is {}.",
    "Certainly! Here is the label:\n\n{}",
    "Of course! The best label for this image is **{}**.",
    "Here's the label: {}",
    "Great question! This is {a} {}.",
    "Hello! It's {a} {}.",
    "Based on the image, the label is: {}",
    # statements
    "This is {a} {}.",
    "It is {a} {}.",
    "It's {a} {}.",
    "The image shows {a} {}.",
    "The image is of {a} {}.",
    "This image depicts {a} {}.",
    "The product in the image is {a} {}.",
    "The picture shows {a} **{}**.",
    'The best fine-grained class label for this image is "{}".',
    "The most fine-grained label is {}.",
    "The label for this image would be {}.",
    'I would label this image as "{}".',
    "I would classify this as {a} {}.",
    "I can see {a} {}.",
    "You are looking at {a} {}.",
    "A photo of {a} {}.",
    # hedges
    "I believe this is {a} {}.",
    "I think it is {a} {}.",
    "I think this is {a} {}",
    "I would say it's {a} {}.",
    "My best guess is {}.",
    "My guess: {}",
    "Most likely {a} {}",
    "Likely {a} {}",
    "Probably {a} {}.",
    "Possibly {a} {}",
    "Looks like {a} {}",
    "This looks like {a} {}.",
    "It appears to be {a} {}.",
    "This could be {a} {}.",
    # with more behind
    "{} (95% confidence)",
    "{}, 95% confident",
    "{} - based on the visible features",
    "{}: a small thing with a round shape",
    "{}\n\nThe image shows it from the side, on a white background.",
    "{}. It has a typical shape.",
    "This is {a} {}, which is recognizable by its shape.",
    "This is {a} **{}**. It is known for its colours, and it is common.",
    "The image shows {a} {} in the foreground.",
)


@dataclass(frozen=True)
class Loss:
    """A name that a phrase did not give back, and what came out of it."""

    name: str
    phrase: str
    found: str | Failure


def read_names(file: Path) -> list[str]:
    """The names of a list, without its comments; repeated ones once."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line and not re.match(r"# |#$", line)))


def said(phrase: str, name: str) -> str:
    """The answer: the phrase with the name in its place, with the article that fits."""
    article = "an" if name.lstrip("'\"([*#@.")[:1].lower() in tuple("aeiou") else "a"
    if re.match(r"(?i)(?:the|an?)\s", name):
        phrase = phrase.replace("{a} ", "")
    text = phrase.replace("{a}", article).replace("{json}", json.dumps({"label": name}, ensure_ascii=False))
    return (
        text.replace("{quoted}", json.dumps(name, ensure_ascii=False))
        .replace("{{", "{")
        .replace("}}", "}")
        .replace("{}", name)
    )


def survives(found: str | Failure, name: str) -> bool:
    """Whether the name came back: as it was written, but for case, a leading article and a stop at its end."""
    return isinstance(found, str) and _plain(found) == _plain(name)


def losses(names: Sequence[str], phrases: Sequence[str] = PHRASES) -> Iterator[Loss]:
    """All pairs in which the name did not come back."""
    for phrase in phrases:
        for name in names:
            found = clean_answer(said(phrase, name))
            if not survives(found, name):
                yield Loss(name, phrase, found)


def _plain(name: str) -> str:
    return re.sub(r"^(?:the|an?)\s+", "", name.strip().rstrip(".!?").casefold())


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--failures", action="store_true", help="list every pair that failed")
    parser.add_argument("--every", type=int, default=1, help="only every n-th name")
    arguments = parser.parse_args()
    with harness.reporting(arguments) as report:
        for file in ("presets.txt", "products.txt"):
            names = read_names(NAMES / file)[:: arguments.every]
            lost = list(losses(names))
            share = 1 - len(lost) / (len(names) * len(PHRASES))
            report.say(f"{file}: {len(names)} names in {len(PHRASES)} phrases, {share:.2%} came back")
            by_phrase = Counter(loss.phrase for loss in lost)
            for phrase, count in by_phrase.most_common():
                report.say(f"  {count:6} lost  {phrase!r}")
            if arguments.failures:
                for loss in lost:
                    found = loss.found if isinstance(loss.found, str) else f"[{loss.found.reason}]"
                    report.say(f"    {loss.name!r} in {loss.phrase!r} -> {found!r}")


if __name__ == "__main__":
    main()
