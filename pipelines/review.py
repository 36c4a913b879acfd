"""review: look at a run's names and photos in a browser, correct them, and audit how many are right.

    python pipelines/review.py runs/mine
    python pipelines/review.py s3://bucket/runs/mine --who ann

Prints a link that works once and serves the page on this machine only, until Ctrl-C. Decisions are appended to
`review/` in the run folder; several people may review the same run at once. docs/review.md has the keys and the files.
Exit status: 0 after Ctrl-C, 2 where there is no run or nothing to review.
"""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fgvr.commands import as_called, program
from fgvr.errors import UserError
from fgvr.redact import safe

if TYPE_CHECKING:
    from fgvr.arrays import Floats
    from fgvr.clip.model import ClipModel
    from fgvr.config import Config
    from fgvr.config.data import ImageLimits
    from fgvr.review.catalogue import Catalogue
    from fgvr.review.likeness import Encode


class PortTaken(UserError):
    """The page cannot be served at the given port."""


def opened(folder: str) -> tuple[Catalogue, ImageLimits, Encode | None]:
    """The finished tables of a run, the limits under which it reads photos, and what makes vectors of texts.

    Raises:
        NoRun, NothingToReview: there is no run, or none with names.
    """
    from cluster.run_folder import CONFIG_FILE
    from cluster.run_status import FINISHED, run_status
    from fgvr import storage
    from fgvr.config import load_config
    from fgvr.review.catalogue import Catalogue
    from fgvr.tables import Table
    from pipelines.command import PRESETS

    status = run_status(folder)
    tables = {stage.name: Table.load(stage.table) for stage in status.stages if stage.state == FINISHED}
    config = load_config(["--config", storage.join(status.folder, CONFIG_FILE)], PRESETS)
    return Catalogue(tables), config.ingest.limits, _texts(config)


def _texts(config: Config) -> Encode | None:
    """The text tower of the encoder that made the vectors, loaded when it is first asked; None where it has none."""
    from fgvr.config.vectors import has_texts

    if not has_texts(config.embed.vectors):
        return None
    loaded: list[ClipModel] = []

    def encode(text: str) -> Floats:
        import numpy as np

        from fgvr.clip.model import load_clip
        from pipelines.embed import vectors_at

        if not loaded:
            loaded.append(load_clip(vectors_at(config)))
        found: Floats = np.asarray(loaded[0].encode_names([text], config.clip.template)[0], np.float32)
        return found

    return encode


def serve(folder: str, who: str, port: int) -> None:
    """Serve the page until Ctrl-C; raises PortTaken, and what `opened` raises."""
    import uvicorn

    from fgvr.review.desk import Desk
    from fgvr.review.server import Doors, application
    from fgvr.review.thumbnails import Thumbnails

    catalogue, limits, encode = opened(folder)
    with _door(port) as door:
        doors = Doors(door.getsockname()[1], lambda link: _say(f"for another browser: {link}"))
        app = application(
            Desk(folder, catalogue, who, encode), Thumbnails(limits), doors, PurePosixPath(folder.rstrip("/")).name
        )
        _say(f"{len(catalogue.index.ids):,} photos with {len(catalogue.index.names):,} names; Ctrl-C ends it")
        _say(f"open this link, which works once: {doors.link}")
        # No access log: it would hold the link's token.
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[door])


def _door(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise PortTaken(f"--port {port} cannot be used: {error}; without it, any free one is taken") from None


def _say(line: str) -> None:
    sys.stdout.write(f"review: {line}\n")
    sys.stdout.flush()


def _someone() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a user
        return "someone"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the module's docstring has the exit statuses."""
    parser = argparse.ArgumentParser(
        prog=program(), description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run's folder, a path or an URL")
    parser.add_argument("--who", help="your name in the decisions (default: that of your account)")
    parser.add_argument("--port", type=int, default=0, help="of the page on this machine (default: any free one)")
    options = parser.parse_args(argv)
    try:
        serve(options.run, options.who or _someone(), options.port)
    except UserError as error:
        sys.stderr.write(safe(f"review: {error}\n"))
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
