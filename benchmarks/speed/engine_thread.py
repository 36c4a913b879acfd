"""The work of an engine's thread outside the engine: CPU per photo outside its steps; images per second by threads.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.engine_thread --images 1000 --side 640

Photos of `--side` pixels are drawn once as JPEG files. Then, with the demo's model in vLLM (or `--model`):

- *label*, *aspects*: `LabelWorker` and `AspectWorker` over all photos. CPU of the thread that steps the engine, inside
  its steps and outside of them; of the whole process; wall time;
- *preprocessing*: engine inputs of the photos made on 1, 2 … `--threads` threads, no engine asked: images per second.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from benchmarks import harness
from fgvr.config.data import ImageLimits
from fgvr.config.makd import ASPECT_INSTRUCTION
from fgvr.config.models import VllmBackend
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.samples import DEMO_DIFFICULTY, sample
from fgvr.images.pictures import Picture
from fgvr.images.read import read_image
from fgvr.mllm.backend import AspectTask, Sampling
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.prompts import image_conversation
from fgvr.mllm.scoring_workers import AspectSettings, AspectWorker
from fgvr.mllm.vllm_engine.engine import VllmEngine

PROMPT = "Provide a best fine-grained class label for this image."


def photos(folder: Path, count: int, side: int) -> list[str]:
    """Files of drawn birds, enlarged to photos."""
    for number in range(count):
        drawn = Image.fromarray(sample(0, "train", number, difficulty=DEMO_DIFFICULTY).image)
        drawn.resize((side, side * 3 // 4)).save(folder / f"{number}.jpg", quality=92)
    return [str(folder / f"{number}.jpg") for number in range(count)]


class StepClock:
    """CPU seconds of the engine's thread inside its steps."""

    def __init__(self, engine: VllmEngine) -> None:
        self.seconds, self.steps = 0.0, 0
        step = engine._loop._engine.step

        def timed() -> Any:
            begun = time.thread_time()
            outputs = step()
            self.seconds += time.thread_time() - begun
            self.steps += 1
            return outputs

        engine._loop._engine.step = timed


def measured(name: str, clock: StepClock, count: int, work: Callable[[], Any], table: harness.Table) -> None:
    """Run and print one row, CPU ms per photo but for the last column."""
    inside, steps = clock.seconds, clock.steps
    wall, thread, process = time.perf_counter(), time.thread_time(), time.process_time()
    work()
    wall, thread, process = time.perf_counter() - wall, time.thread_time() - thread, time.process_time() - process
    inside = clock.seconds - inside
    seconds = (thread - inside, inside, process, wall)
    outside, stepping, whole, waited = (1e3 * one / count for one in seconds)
    table.row(name, outside, stepping, (clock.steps - steps) / count, whole, waited)


def main() -> None:
    """Measure, and print one line per measurement."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="photos of each row; default: %(default)s")
    parser.add_argument("--side", type=int, default=640, help="width of a photo, pixels; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="most threads of preprocessing")
    parser.add_argument("--model", default="demo", help="the demo's, or a checkpoint's folder")
    parser.add_argument("--max-model-len", type=int, help="of the checkpoint's prompts")
    parser.add_argument("--questions", type=int, default=10)
    given = parser.parse_args()
    config = VllmBackend(model=given.model, cpu_kv_cache_gb=0.5, max_model_len=given.max_model_len)
    with harness.reporting(given) as report, tempfile.TemporaryDirectory() as scratch:
        count = given.images
        uris = photos(Path(scratch), (2 + given.threads) * count, given.side)  # new ones each time: nothing is kept
        engine = VllmEngine(config)
        clock = StepClock(engine)
        texts = tuple(question.text for question in QUESTIONS[: given.questions])
        task = AspectTask(texts, ASPECT_INSTRUCTION)
        labels = LabelWorker(LabelSettings(config, PROMPT, Sampling(8), ImageLimits(), threads=2), engine)
        aspects = AspectWorker(AspectSettings(task, 0.0, ImageLimits(), threads=2), engine)
        few = pa.table({"image_id": range(2), "uri": uris[-2:]})
        labels.process(few), aspects.process(few)
        columns = {"": "<9", "outside steps": ">14.2f", "in steps": ">10.2f", "steps": ">7.2f", "process": ">9.2f"}
        table = report.table({**columns, "wall ms": ">9.2f"})
        for name, worker, some in (("label", labels, uris[:count]), ("aspects", aspects, uris[count : 2 * count])):
            rows = pa.table({"image_id": range(count), "uri": some})
            measured(name, clock, count, partial(worker.process, rows), table)
        ids = engine._prompts.ids(image_conversation(PROMPT))
        for threads in range(1, given.threads + 1):
            first = (1 + threads) * count
            pictures = [Picture.of(read_image(uri, ImageLimits())) for uri in uris[first : first + count]]
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda picture: engine._prompts.with_picture(ids, picture, whole=True), pictures[:4]))
                begun, cpu = time.perf_counter(), time.process_time()
                list(pool.map(lambda picture: engine._prompts.with_picture(ids, picture, whole=True), pictures[4:]))
                wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
            report.say(
                f"preprocessing on {threads} thread(s): {(count - 4) / wall:.0f} images/s,"
                f" {1e3 * cpu / (count - 4):.2f} ms CPU per photo"
            )


if __name__ == "__main__":
    main()
