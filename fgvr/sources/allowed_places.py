"""Which places a source may name or link to: a stranger's list must not say what is read of this machine.

Without `ingest.limits.allowed_roots` the source's own place decides, since it tells who could write there. A table on
this machine's disks was put there by its owner, who may name files, buckets and web addresses in it, but no system's
files, and none of those that tools hide in home folders. A table in a bucket may name that bucket and web addresses;
one at a web address, web addresses. What a public data set's lists name lies below its folder, and links lead nowhere
else. With `allowed_roots` all of them may name what is below their own folder or one of the roots. Web addresses have
rules of their own (`ingest.limits.web`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.images.places import Unlisted, file_of
from fgvr.images.system_places import HIDDEN, KEYS, is_system_place
from fgvr.schemas import Reason

_INSIDE: Final = re.compile(r"(?:tar|parquet|unlisted)\+")
_WEB: Final = r"(?i)^https?://"
_ODD: Final = rf"^/(?:proc|sys|etc|boot|dev)(?:/|$)|{KEYS}|{HIDDEN}|^(?:tar|parquet|unlisted)\+|^(?i:file)://|^/.*[%\\]"
"""Paths that need a closer check; Arrow expressions have no look-ahead."""
_UP: Final = r"/\.{1,2}(?:/|$)"
"""Parts of a key that mean another place wherever paths are normalised."""
SHOWN: Final = 160
"""How many characters of a refused URI its row keeps."""


@dataclass
class AllowedPlaces:
    """The rule for one source; counts what it refused, and what may be surprising.

    Attributes:
        source: URI of the list or folder.
        own: the folder of that list, or the folder itself.
        roots: `ingest.limits.allowed_roots`.
        lists_own_files: whether the lists may name only files below `own`, as for a data set; a table may name more.
    """

    source: str
    own: str
    roots: Sequence[str] = ()
    lists_own_files: bool = False
    refused: int = 0
    first_refused: str = ""
    local_elsewhere: int = 0
    remote: int = 0
    _prefixes: tuple[str, ...] = field(init=False, repr=False)
    _own: str = field(init=False, repr=False)
    _own_is_system: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = self.own if storage.is_local(self.own) else _bucket(self.own)
        self._prefixes = tuple(_root(place) for place in (own, *self.roots) if place)
        # A list in a hidden folder may name what is there; one in ~ may not name ~/.ssh, although that is below it.
        self._own = _root(own) if own else ""
        self._own_is_system = storage.is_local(self.own) and is_system_place(self._own)

    @property
    def anywhere(self) -> bool:
        """Whether everything but system places may be named: for a table on this machine, unless roots are set."""
        return storage.is_local(self.source) and not self.roots and not self.lists_own_files

    def checked(self, uris: pa.Array) -> pa.Array:
        """Absolute URIs, in which those that must not be read are replaced by URIs of failing rows; vectorised."""
        uris = uris.cast(pa.large_string())
        fine = self._plainly_fine(uris)
        if pc.all(fine).as_py():
            return uris
        known = zip(uris.to_pylist(), fine.to_pylist(), strict=True)
        return pa.array([uri if ok or self.allows(uri) else self._refuse(uri) for uri, ok in known], pa.large_string())

    def allows(self, uri: str) -> bool:
        """Whether this URI may be read."""
        place = uri[len(found[0]) :] if (found := _INSIDE.match(uri)) else uri
        if found:
            place = place.rpartition("#")[0]
        if re.match(_WEB, place):
            return True
        if not storage.is_local(place):
            if self.anywhere or not storage.is_object_store(place):  # the reader reports what is not an object store
                return True
            # Some stores' libraries put keys into URLs, where `..` leads up: to another bucket or repository.
            return self._below(_root(place)) and re.search(_UP, place) is None
        path = str(storage.local_path(place))
        # Where nothing is there, the reader tries the name as other systems write it (fgvr.images.lookalikes).
        forms = {path, path.replace("\\", "/"), unquote(path), unquote(path).replace("\\", "/")}
        return all(self._allows_local(os.path.normpath(form)) for form in forms)

    def _allows_local(self, path: str) -> bool:
        if self.anywhere:
            return not is_system_place(path) or (self._own_is_system and self._below(path))
        return self.allows_path(path)

    def allows_path(self, path: str) -> bool:
        """Whether a local file, with links followed, lies below the source's folder or a root."""
        folder, name = os.path.split(path)
        real = os.path.join(_real(folder), name)  # noqa: PTH118  # names that are not UTF-8, and millions of them
        if os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
        roots = [prefix for prefix in self._prefixes if storage.is_local(prefix) and _is_below(real, _real(prefix))]
        if roots == [self._own] and not self._own_is_system:
            return not is_system_place(real)
        return bool(roots)

    def remarks(self) -> list[str]:
        """Notes for a reader of the results; available when everything was checked."""
        said = []
        if self.refused:
            said.append(
                f"{self.refused:,} rows name places that {self.source} may not name ({self.first_refused}); they fail "
                "with not_allowed unless ingest.limits.allowed_roots names the folder or bucket"
            )
        if self.anywhere and self.local_elsewhere and self.remote:
            said.append(
                f"{self.local_elsewhere:,} rows of {self.source} name files elsewhere on this machine, others lie on "
                "the web or in buckets. If somebody else made this table, ingest.limits.allowed_roots says what it "
                "may name"
            )
        return said

    def _plainly_fine(self, uris: pa.Array) -> pa.Array:
        """Which URIs may be read for certain, judged by their text alone."""
        empty = pc.equal(uris.fill_null(""), "")
        web = pc.match_substring_regex(uris, _WEB)
        local = pc.starts_with(uris, "/")
        below = local
        for number, prefix in enumerate(self._prefixes):
            found = pc.or_(pc.starts_with(uris, prefix.rstrip("/") + "/"), pc.equal(uris, prefix))
            below = found if number == 0 else pc.or_(below, found)
        remote = pc.match_substring(uris, "://")
        self.remote += pc.sum(remote).as_py() or 0
        self.local_elsewhere += pc.sum(pc.and_(local, pc.invert(below))).as_py() or 0
        if self.anywhere:
            fine = pc.or_(web, pc.invert(pc.match_substring_regex(uris, _ODD)))
            fine = pc.or_(fine, below) if self._own_is_system else fine
        else:
            # Local files are checked one by one, since links may lead elsewhere.
            plain = pc.invert(pc.match_substring_regex(uris, _UP))
            fine = pc.or_(web, pc.and_(below, pc.and_(remote, plain)))
        return pc.or_(fine, empty).fill_null(True)

    def _below(self, place: str) -> bool:
        return any(_is_below(place, prefix) for prefix in self._prefixes)

    def _refuse(self, uri: str) -> str:
        self.refused += 1
        self.first_refused = self.first_refused or uri[:SHOWN]
        if self.anywhere:
            detail = (
                f"{uri[:SHOWN]} is a file of the system, or hidden where keys are kept; "
                "ingest.limits.allowed_roots can name its folder, and then every other one of this list"
            )
            return Unlisted(file_of(self.source), Reason.NOT_ALLOWED, detail).uri
        return refused_uri(self.source, uri, self.own if storage.is_local(self.own) else _bucket(self.own))


def refused_uri(source: str, uri: str, own: str) -> str:
    """The URI of the row in place of a URI that must not be read: it fails, and says which field to set."""
    outside = own[-SHOWN:] or source[-SHOWN:]
    detail = f"ingest.limits.allowed_roots names no place of {uri[:SHOWN]}, which is outside of {outside}"
    return Unlisted(file_of(source), Reason.NOT_ALLOWED, detail).uri


def _root(place: str) -> str:
    """A folder, bucket or prefix, normalised for comparison."""
    if storage.is_local(place):
        return os.path.normpath(storage.absolute(place))
    return storage.canonical(place)


def _bucket(uri: str) -> str:
    """The unit that one owner can write to at a remote URI: its bucket, or its repository on Hugging Face."""
    if not storage.is_object_store(uri):
        return ""
    scheme, _, rest = uri.partition("://")
    parts = rest.split("/")
    if scheme.lower() == "hf":
        return f"{scheme}://{'/'.join(parts[: 3 if parts[0] in {'datasets', 'spaces'} else 2])}"
    return f"{scheme}://{parts[0]}"


def _is_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


@lru_cache(maxsize=65_536)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
