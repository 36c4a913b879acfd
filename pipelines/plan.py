"""plan: rows, requests, tokens, hours and US$ of every stage of a whole job, before anything is started.

    python pipelines/plan.py --config my.yaml              # from prices, and rates that were measured or assumed
    python pipelines/plan.py --config my.yaml --probe 20   # ask the model about 20 photos first, and time every stage

Without `--probe` it starts and writes nothing; `--plan` at the end of a stage's command prints the same for what that
command computes, and a run logs it before the first model is asked. `--probe` computes every stage for a few photos, in
a folder that it removes again, with the workers, models and servers of the config: replies are kept where the config
keeps replies, so that the run does not pay for them again, and count in `run.budget`. Measured rates are kept in the
run folder (`rates.json`). Prices come from `evaluate.prices`, or else from the price file that this version ships; the
arithmetic is that of the report's "Time and money".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fgvr.commands import program
from pipelines.command import stage_main
from pipelines.evaluate import whole_job
from pipelines.preflight import check

if TYPE_CHECKING:
    from fgvr.config import Config

LEAST = 4
"""Photos of the smallest probe: of its two halves the first warms up and the second is timed."""


def _photos_to_probe(words: Sequence[str]) -> tuple[list[str], int | None]:
    """The arguments without `--probe`, and its number; exits with status 2 where that is none."""
    parser = argparse.ArgumentParser(prog=program(), add_help=False, allow_abbrev=False)
    parser.add_argument("--probe", type=int)
    options, others = parser.parse_known_args(list(words))
    if options.probe is not None and options.probe < LEAST:
        parser.error(f"--probe {options.probe}: at least {LEAST} photos, half of which only warm up")
    return others, options.probe


def main() -> None:
    """The command line."""
    words, photos = _photos_to_probe(sys.argv[1:])

    def probed(config: Config, tables: Sequence[str]) -> Sequence[str]:
        from pipelines.probe import probe

        return [] if photos is None else probe(config, tables, photos)

    stage_main(
        __doc__,
        wanted=lambda config: [*whole_job(config), "report"],
        check=check,
        before_plan=None if photos is None else probed,
        argv=[*words, "--plan"],
    )


if __name__ == "__main__":
    main()
