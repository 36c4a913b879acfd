"""Whether forcing a model to JSON harms its names: the demo's tiny MLLM through vLLM on drawn birds.

    python -m benchmarks.quality.structured_answers [--per-class 8]

Rows: free text; JSON requested but not enforced; enforced but not requested; both, which is `label.answer structured`.
A name is right if it is that of the drawn species. The tiny model learned to answer one prompt with only the name.
"""

from __future__ import annotations

from PIL import Image

from benchmarks import harness
from benchmarks.demo_models.measure import drawings
from fgvr.config.models import VllmBackend
from fgvr.config.near import LABEL_PROMPT
from fgvr.demo.samples import DEMO_DIFFICULTY
from fgvr.demo.species import SPECIES
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import Answer, ImageRequest, Sampling
from fgvr.mllm.prompts import image_conversation
from fgvr.mllm.vllm_engine.engine import VllmEngine
from fgvr.names.answer_items import Form, item_name, read_answers
from fgvr.names.structured import extra_tokens, instruction

SEED = 11


def name_of(answer: Answer, *, held: bool) -> str | None:
    """The name that the label stage reads from an answer; None: a failed row."""
    (said,) = read_answers([answer.text], Form(structured=held), [answer.cut])
    name = item_name(said.items[0]) if said.items else None
    return name if isinstance(name, str) else None


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--per-class", type=int, default=8, help="drawings of each of the 36 species")
    args = parser.parse_args()
    with harness.reporting(args) as report:
        measure(args.per_class, report)


def measure(per_class: int, report: harness.Report) -> None:
    """The table: each row asks all drawings."""
    birds = drawings(SEED, "test", per_class, DEMO_DIFFICULTY)
    pictures = [Picture.of(Image.fromarray(image)) for image in birds.images]
    truth = [SPECIES[species].name for species in birds.species]
    engine = VllmEngine(VllmBackend(cpu_kv_cache_gb=0.5))
    report.say(f"{len(pictures)} drawings")
    table = report.table({"": "<28", "right": ">8", "a name": ">8", "cut off": ">9", "  first answer": "<62"})
    for title, asked, held in (
        ("free", False, False),
        ("asked for JSON, not constrained", True, False),
        ("constrained to JSON, not asked", False, True),
        ("structured", True, True),
    ):
        prompt = f"{LABEL_PROMPT} {instruction(1)}" if asked else LABEL_PROMPT
        sampling = Sampling(32 + extra_tokens(1), structured=1) if held else Sampling(64 if asked else 32)
        answers = engine.label(ImageRequest(picture, image_conversation(prompt), sampling) for picture in pictures)
        names = [name_of(answer, held=held) for answer in answers]
        right = sum(name == true for name, true in zip(names, truth, strict=True))
        counts = (sum(name is not None for name in names), sum(answer.cut for answer in answers))
        table.row(title, right, *counts, "  " + (answers[0].text or "")[:60])


if __name__ == "__main__":
    main()
