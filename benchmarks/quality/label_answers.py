"""Names from the prose of a real model: their quality without a second call, and the effect of merging aliases.

    python -m benchmarks.quality.label_answers [--data ../shared/data/mllm-answers]

The data are answers of Qwen2.5-VL-72B to a naming prompt, one image per line, for 3-shot discovery sets of CUB-200,
Stanford Cars and Flowers-102, with the name that a second call extracted from each (GitHub demidovd98/FiNDR, MIT
licence).
Rows of the table:

1. `second call`: that name. `its words in the prose`: what is left of it without words that the answer does not hold:
   what any reader of the prose can get, however clever. Stanford Cars' second call was told to add body style and year.
2. `prose`: the name that `fgvr.names.answers` reads from the same prose.
3. `merged at t`: after alias merging (`fgvr.names.merging`) from cosine t on. t of a set is chosen on the two others:
   the highest mean cACC among the t at which no two of their true class names merge and sACC falls by no more than 0.5.

sACC is that of all-MiniLM-L6-v2; an answer without a name scores 0.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import harness
from fgvr.metrics.clustering import match_clusters
from fgvr.metrics.semantic import SentenceBert, sacc_scores
from fgvr.names.label_space import build_label_space
from fgvr.names.merging import NameEncoder, NameUse, merge_aliases

THRESHOLDS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)
ALLOWED_LOSS = 0.5  # of sACC
DATA = harness.DATA / "mllm-answers"


@dataclass(frozen=True)
class Answer:
    """The answer about an image, the name that a second call extracted from it, and the true name."""

    raw: str
    second_call: str
    true: str


@dataclass(frozen=True)
class Score:
    """sACC and cACC (0–100), distinct names, and images without a name."""

    sacc: float
    cacc: float
    names: int
    unnamed: int


@dataclass(frozen=True)
class SetScores:
    """The rows of a set: by what was scored, and after merging by threshold.

    Attributes:
        second_call: row 1.
        in_prose: row 1 without words that the answer does not hold.
        prose: row 2.
        merged: threshold → row 3.
        joined_classes: threshold → true class names that merging would take for an alias of another true class.
    """

    second_call: Score
    in_prose: Score
    prose: Score
    merged: Mapping[float, Score]
    joined_classes: Mapping[float, int]


class RememberedNames:
    """An encoder that embeds every name once."""

    def __init__(self, encoder: NameEncoder) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of names, float32 [N, D]; see `NameEncoder`."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        if new:
            self._known |= dict(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._known[name] for name in names])


def read_answers(file: Path) -> list[Answer]:
    """The answers of one set, a JSON object per line."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Answer(row["answer"], row["extracted"], row["true_name"].strip()) for row in rows]


def score_set(answers: Sequence[Answer], encoder: NameEncoder, thresholds: Sequence[float] = THRESHOLDS) -> SetScores:
    """All rows of one set; cACC is FineR's over its images."""
    remembered = RememberedNames(encoder)
    true = [answer.true for answer in answers]

    def score(names: Sequence[str]) -> Score:
        sacc = float(sacc_scores(names, true, remembered).mean())
        return Score(sacc, match_clusters(names, true).accuracy, len(set(names) - {""}), sum(not n for n in names))

    def aliases(names: Sequence[NameUse], threshold: float) -> dict[str, str]:
        return merge_aliases(names, lambda: remembered, threshold)

    prose, uses = read_names(answers)
    classes = [NameUse(name, 1) for name in sorted(set(true))]
    merged = {t: aliases(uses, t) for t in thresholds}
    return SetScores(
        second_call=score([answer.second_call for answer in answers]),
        in_prose=score([words_in_prose(answer) for answer in answers]),
        prose=score(prose),
        merged={t: score([merged[t].get(name, name) for name in prose]) for t in thresholds},
        joined_classes={t: len(aliases(classes, t)) for t in thresholds},
    )


def read_names(answers: Sequence[Answer]) -> tuple[list[str], list[NameUse]]:
    """The name in the prose of each answer, "" where it has none; and what the label stage knows of each name."""
    uses: list[NameUse] = []

    def see(names: Sequence[NameUse]) -> dict[str, str]:
        uses.extend(names)
        return {}

    meanings = build_label_space(Counter(answer.raw for answer in answers), merge=see).meanings
    found = [meanings[answer.raw] for answer in answers]
    return [name if isinstance(name, str) else "" for name in found], uses


def words_in_prose(answer: Answer) -> str:
    """The second call's name without the words that the answer does not hold, blanks and punctuation apart."""
    together = re.sub(r"[^a-z0-9]", "", answer.raw.lower())
    said = set(re.findall(r"[a-z0-9]+", answer.raw.lower()))

    def is_said(word: str) -> bool:
        letters = re.sub(r"[^a-z0-9]", "", word.lower())
        return letters in said or (len(letters) > 3 and letters in together)

    return " ".join(word for word in answer.second_call.split() if is_said(word))


def choose_threshold(others: Sequence[SetScores]) -> float:
    """The threshold with the highest mean cACC on these sets that does no harm there; the higher one of two equals."""
    harmless = [
        t
        for t in others[0].merged
        if all(
            not scores.joined_classes[t] and scores.merged[t].sacc >= scores.prose.sacc - ALLOWED_LOSS
            for scores in others
        )
    ]
    if not harmless:
        raise ValueError("every threshold merges true classes or lowers sACC by more than 0.5")
    return max(harmless, key=lambda t: (float(np.mean([scores.merged[t].cacc for scores in others])), t))


def table(sets: Mapping[str, SetScores]) -> str:
    """Rows 1 to 3 of every set; of row 3 the threshold chosen on the other sets."""
    lines = [f"{'set':10}{'names from':26}{'sACC':>7}{'cACC':>7}{'names':>7}{'without':>9}{'classes joined':>16}"]
    for name, scores in sets.items():
        chosen = choose_threshold([other for other_name, other in sets.items() if other_name != name])
        rows = {
            "1 second call": scores.second_call,
            "  its words in the prose": scores.in_prose,
            "2 prose": scores.prose,
            f"3 merged at {chosen:.2f}": scores.merged[chosen],
        }
        for title, row in rows.items():
            joined = str(scores.joined_classes[chosen]) if row is scores.merged[chosen] else ""
            lines.append(
                f"{name:10}{title:26}{row.sacc:7.2f}{row.cacc:7.2f}{row.names:7}{row.unnamed:9}{joined:>16}".rstrip()
            )
    return "\n".join(lines)


def sweep(sets: Mapping[str, SetScores]) -> str:
    """The effect of merging at every threshold: sACC, cACC, and merged true classes."""
    lines = [
        "change by merging (sACC, cACC, true classes joined)",
        f"{'t':6}" + "".join(f"{name:>22}" for name in sets),
    ]
    for t in next(iter(sets.values())).merged:
        cells = [
            f"{s.merged[t].sacc - s.prose.sacc:+.2f} {s.merged[t].cacc - s.prose.cacc:+.2f} {s.joined_classes[t]}"
            for s in sets.values()
        ]
        lines.append(f"{t:<6.2f}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of <set>-3shot.jsonl files")
    args = parser.parse_args()
    folder = args.data
    files = {name: folder / f"{name}-3shot.jsonl" for name in ("cub", "cars", "flowers")}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        parser.error(f"not there: {', '.join(missing)}; name the folder with --data (see the docstring for its source)")
    encoder = SentenceBert("all-MiniLM-L6-v2")
    sets = {name: score_set(read_answers(file), encoder) for name, file in files.items()}
    with harness.reporting(args) as report:
        report.say(table(sets) + "\n")
        report.say(sweep(sets))


if __name__ == "__main__":
    main()
