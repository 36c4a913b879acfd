"""Access to the Ray that is started on this machine: only from this machine, and only with its token.

Ray creates a token by itself, but in a file that every user of the machine can read, and its processes listen on all
interfaces. This module fixes both before Ray starts.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from pathlib import Path

from fgvr.redact import keep_secret

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)


def token_file() -> Path:
    """The file of the token, if it is not in the environment: RAY_AUTH_TOKEN_PATH, or else ~/.ray/auth_token."""
    given = os.environ.get(TOKEN_PATH)
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def prepare_token() -> None:
    """Make sure that there is a token, and that only its owner can read it.

    RAY_AUTH_MODE=disabled is respected, with a warning; a token in the environment is left alone. Where no file can be
    written, the environment holds the token for this process and its children.
    """
    if os.environ.get(MODE, "token").lower() != "token":
        log.warning("%s=%s: whoever reaches Ray's ports can run programs as you", MODE, os.environ[MODE])
        return
    if os.environ.get(TOKEN):
        return
    file = token_file()
    try:
        if not file.exists():
            make_token(file)
        if file.stat().st_mode & 0o077 and file.stat().st_uid == os.getuid():
            file.chmod(0o600)
            log.info("%s could be read by other users of this machine; its permissions were corrected", file)
        keep_secret(file.read_text().strip())
    except OSError as error:
        if os.environ.get(TOKEN_PATH):
            return  # set by the user: Ray itself reports what is wrong with it
        log.info("no token can be kept in %s (%s); this session has one of its own", file, error)
        os.environ[TOKEN] = secrets.token_hex(32)


def make_token(file: Path) -> None:
    """Write a new token of 256 bits to a file with mode 0600, unless another process was faster. Raises OSError.

    The file appears atomically: another process reads the whole token or finds no file.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".auth_token.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
        try:
            os.link(temporary, file)
        except FileExistsError:
            return
    finally:
        Path(temporary).unlink(missing_ok=True)
