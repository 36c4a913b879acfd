"""Runs in a process of its own: one engine after the other answers about images of several sizes. Usage: OUT FOLDER…"""

import json
import sys
from pathlib import Path
from typing import Any

from engine_scenarios import plain
from scenario_inputs import QUESTIONS, shaped, small

from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectTask
from fgvr.mllm.vllm_engine.engine import VllmEngine
from fgvr.mllm.vllm_engine.prompts import PlainPrompts, SplicedPrompts
from fgvr.mllm.vllm_engine.scoring import AspectLoop


def answers(folder: Path) -> dict[str, Any]:
    engine = VllmEngine(small(folder))
    pictures = [Picture.of(image) for image in shaped()]
    found: dict[str, Any] = {}
    for order in ("shared_prefix", "paper"):
        task = AspectTask(QUESTIONS, "Yes or No.", order)
        found[order] = [plain(answer) for answer in engine.aspects(pictures, task)]
    spliced = engine._tasks[task].prompts
    found["spliced"] = isinstance(spliced, SplicedPrompts)
    assert isinstance(spliced, PlainPrompts)
    whole = PlainPrompts(engine._prompts, spliced._questions)
    loop = AspectLoop(engine._loop, whole, engine._tasks[task].tokens, questions=len(QUESTIONS))
    apart = [Picture(picture.image, f"apart {number}") for number, picture in enumerate(pictures)]
    found["plain"] = [plain(answer) for answer in loop.run(apart)]
    found["same_ids"] = [
        [prompt["prompt_token_ids"] for prompt in spliced.inputs(picture)]
        == [prompt["prompt_token_ids"] for prompt in whole.inputs(picture)]
        for picture in pictures
    ]
    engine.close()
    return found


if __name__ == "__main__":
    out, folders = Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]]
    out.write_text(json.dumps({folder.name: answers(folder) for folder in folders}))
