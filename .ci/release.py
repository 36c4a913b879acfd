"""Write a new version and today's date into the files that name them: see docs/releasing.md.

python .ci/release.py 0.3.0
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class ReleaseError(Exception):
    """The version cannot be written; the message says why."""


def numbers(version: str) -> tuple[int, ...]:
    """(0, 3, 0) of "0.3.0"."""
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        raise ReleaseError(f"{version}: a version has three numbers, such as 0.3.0")
    return tuple(map(int, version.split(".")))


def replaced(text: str, pattern: str, new: str, where: str) -> str:
    """The text with the one place that matches the pattern replaced."""
    made, count = re.subn(pattern, lambda _: new, text, flags=re.MULTILINE)
    if count != 1:
        raise ReleaseError(f"{where}: expected one place like {pattern}, found {count}")
    return made


def release(root: Path, version: str, day: str) -> None:
    """Change the three files; all are checked before the first is written."""
    package, citation, changes = root / "fgvr" / "__init__.py", root / "CITATION.cff", root / "CHANGELOG.md"
    texts = {file: file.read_text(encoding="utf-8") for file in (package, citation, changes)}
    now = re.search(r'^__version__ = "(.+)"$', texts[package], flags=re.MULTILINE)
    if now is None or numbers(version) <= numbers(now[1]):
        raise ReleaseError(f"{version} is not newer than {now[1] if now else 'what is in fgvr/__init__.py'}")
    parts = re.split(r"^## ", texts[changes], flags=re.MULTILINE)
    if len(parts) < 2 or not parts[1].startswith("[Unreleased]\n") or "\n- " not in parts[1]:
        raise ReleaseError("CHANGELOG.md: nothing stands under [Unreleased]")
    texts[package] = replaced(texts[package], r'^__version__ = ".+"$', f'__version__ = "{version}"', package.name)
    texts[citation] = replaced(texts[citation], r"^version: .+$", f"version: {version}", citation.name)
    texts[citation] = replaced(texts[citation], r"^date-released: .+$", f"date-released: {day}", citation.name)
    heading = f"## [Unreleased]\n\n## [{version}] - {day}"
    texts[changes] = replaced(texts[changes], r"^## \[Unreleased\]$", heading, changes.name)
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    version = parser.parse_args().version
    words = ["git", "-C", str(ROOT), "status", "--porcelain"]
    if subprocess.run(words, capture_output=True, text=True, check=True).stdout:  # noqa: S603
        sys.stderr.write("release: the working copy has changes: commit them first\n")
        return 2
    try:
        release(ROOT, version, date.today().isoformat())
    except ReleaseError as error:
        sys.stderr.write(f"release: {error}\n")
        return 2
    sys.stdout.write(f"wrote {version}; look at git diff, commit, and tag v{version} (docs/releasing.md)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
