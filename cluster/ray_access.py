"""Who reaches the Ray that is started on this machine: whoever has its token, from this machine.

Ray makes a token by itself, but a file that every user of the machine can read, and its processes listen on all
interfaces. Both are mended here before Ray starts.
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
    """Where Ray looks for the token, unless the environment holds it: RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token."""
    given = os.environ.get(TOKEN_PATH)
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def prepare_token() -> None:
    """See to it that there is a token, and that nobody but its owner can read it.

    Where RAY_AUTH_MODE=disabled was set, that is respected, with a warning; a token in the environment is left alone.
    Where no file can be written, the token of this process and its children stands in the environment.
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
            log.info("%s could be read by others of this machine; not any more", file)
        keep_secret(file.read_text().strip())
    except OSError as error:
        if os.environ.get(TOKEN_PATH):
            return  # named by the user: Ray itself says what is wrong with it
        log.info("no token can be kept in %s (%s); this session has one of its own", file, error)
        os.environ[TOKEN] = secrets.token_hex(32)


def make_token(file: Path) -> None:
    """A new token of 256 bits in a file with mode 0600; one that another process made meanwhile stays. Raises OSError.

    The file appears whole: a process that looks for it meanwhile reads all of the token or finds none.
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
