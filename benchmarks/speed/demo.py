"""The cost of `make demo` after set-up: seconds, CPU seconds, memory, and the number of engine starts.

    python -m benchmarks.speed.demo --repeat 3

The whole job on the drawn field guide (`pipelines/full.py --config demo`) in an empty run folder. `engines` are the
processes that had vLLM's compiled library loaded: an engine runs in the process that asks it, and each start loads it.
`--set near.epochs=2 makd.epochs=2` shortens it, `--keep FOLDER` leaves the last round's run and its log there.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness

LIBRARY = "/vllm/_C"


def demo(changes: Sequence[str], keep: Path | None) -> harness.Cost:
    """One whole run."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = [word for change in changes for word in _flag(change)]
        command = [sys.executable, str(harness.ROOT / "pipelines" / "full.py"), "--config", "demo"]
        command += ["--run.folder", scratch, *flags]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        cost = harness.run_measured(command, environment=offline, log=Path(scratch) / "log", library=LIBRARY)
        if keep is not None:
            shutil.copytree(scratch, keep, dirs_exist_ok=True)
    return cost


def _flag(change: str) -> tuple[str, str]:
    field, _, value = change.partition("=")
    return f"--{field}", value


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="config fields")
    parser.add_argument("--keep", type=Path, help="folder for the last round's run")
    args = parser.parse_args()
    with harness.reporting(args) as report:
        costs = harness.take_turns({"demo": lambda: demo(args.set, args.keep)}, args.repeat)
        harness.cost_table(report, costs)
        report.facts["costs"] = costs


if __name__ == "__main__":
    main()
