"""The fixed cost of labelling: the whole label command against one plain vLLM process with the same requests.

    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind python -m benchmarks.speed.label_cost --images 1005 --repeat 3

Drawn birds as files of 64 px, the demo's model, its naming prompt, greedy answers of 32 tokens at most.

- `label`: `pipelines/label.py` in an empty run folder, with Ray, MLflow, the listing of photos and the clean-up;
- `plain`: a script that opens the files with Pillow and calls `LLM.generate` once with all prompts. Eager mode, the
  cache's size and the longest prompt are those that the command uses; the rest is vLLM's own.

Counted are CPU seconds of all processes of a command from its start to its end, seconds, and the peak of their memory;
label / plain is the mean of the ratios of each round. Images so small cost little, so that it is a ratio of fixed
costs: interpreters, imports, engines, servers. `answered alike` is the share of images to which both said the same.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from benchmarks import harness
from benchmarks.demo_models.drawings import write_birds
from fgvr.config import Label
from fgvr.config.models import VllmBackend
from fgvr.demo.paths import MLLM_PATH

WAYS = ("label", "plain")


def label(folder: Path) -> harness.Cost:
    """The whole command, in an empty run folder."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "label.yaml"
        config = {
            "run": {"folder": scratch, "name": "label"},
            "ingest": {"source": {"kind": "folder", "path": str(folder / "photos")}},
            "label": {"images": {"max_images": None}},
            "cluster": {"num_cpus": 2},
        }
        file.write_text(yaml.safe_dump(config))
        command = [sys.executable, str(harness.ROOT / "pipelines" / "label.py"), "--config", str(file)]
        cost = harness.run_measured(command, log=folder / "label.log")
        parts = sorted(Path(scratch).glob("label/tables/answers/*/part-*.parquet"))
        rows = [row for part in parts for row in pq.read_table(part, columns=["image_id", "texts"]).to_pylist()]
        texts = [(row["texts"] or [""])[0] for row in sorted(rows, key=lambda row: row["image_id"])]
        (folder / "label.json").write_text(json.dumps(texts))
    return cost


def plain(folder: Path) -> harness.Cost:
    """This module in a process of its own, which runs `ask`."""
    command = [*harness.this_command(), "--ask", str(folder)]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(VllmBackend().cpu_kv_cache_gb)),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, as the command's worker has it
    }
    return harness.run_measured(command, environment=environment, log=folder / "plain.log")


def ask(files: Sequence[str]) -> list[str]:
    """What a short plain script answers about the files."""
    from PIL import Image
    from vllm import LLM, SamplingParams

    backend, asked = VllmBackend(), Label()
    llm = LLM(str(MLLM_PATH), max_model_len=backend.max_model_len, enforce_eager=True)
    content = [{"type": "image"}, {"type": "text", "text": asked.prompt}]
    prompt = llm.get_tokenizer().apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    requests = [{"prompt": prompt, "multi_modal_data": {"image": Image.open(file).convert("RGB")}} for file in files]
    params = SamplingParams(temperature=0.0, max_tokens=asked.max_tokens)
    return [output.outputs[0].text.strip() for output in llm.generate(requests, params, use_tqdm=False)]


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=1005)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; both ways take turns")
    parser.add_argument("--ask", type=Path, help=harness.HIDDEN)
    args = parser.parse_args()
    if args.ask is not None:
        said = ask(sorted(str(file) for file in (args.ask / "photos").iterdir()))
        (args.ask / "plain.json").write_text(json.dumps(said))
        return
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_birds(folder / "photos", args.images)
        ways = {"label": partial(label, folder), "plain": partial(plain, folder)}
        costs = harness.take_turns(ways, args.repeat)
        said = [json.loads((folder / f"{way}.json").read_text()) for way in WAYS]
        alike = sum(a == b for a, b in zip(*said, strict=True)) / args.images
        report.say(f"{args.images:,} drawn photos of 64 px, {args.repeat} rounds; answered alike: {alike:.1%}")
        harness.cost_table(report, costs)
        ratios = [one.cpu / other.cpu for one, other in zip(costs["label"], costs["plain"], strict=True)]
        low, high = harness.bootstrap(ratios)
        report.say(f"CPU seconds, label / plain: {statistics.fmean(ratios):.2f} (95%: {low:.2f}–{high:.2f})")
        report.facts |= {"cpu_ratio": statistics.fmean(ratios), "costs": costs, "alike": alike}


if __name__ == "__main__":
    main()
