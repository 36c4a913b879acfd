"""Small JPEGs of photos at any URI: a bounded number of decoders, and a cache with a bound in bytes."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Final

from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.images.read import read_image

SIDES: Final = (128, 640)
"""Longest side in pixels of what can be asked for."""
DECODERS: Final = 2
CACHE_BYTES: Final = 64 << 20


class Thumbnails:
    """Decodes photos under the run's own limits; safe in threads."""

    def __init__(self, limits: ImageLimits, decoders: int = DECODERS, cache_bytes: int = CACHE_BYTES) -> None:
        self._limits = limits
        self._decoders = threading.BoundedSemaphore(decoders)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes, self._most = 0, cache_bytes

    def jpeg(self, uri: str, side: int) -> bytes:
        """The photo's JPEG with at most `side` pixels on the longer side.

        Raises:
            ImageError: it cannot be read.
            ValueError: a side that is not among SIDES.
        """
        if side not in SIDES:
            raise ValueError(f"a side of {side}: choose one of {SIDES}")
        key = (uri, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._decoders:
            image = read_image(uri, self._limits, short_side=side)
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            sink = io.BytesIO()
            image.save(sink, "JPEG", quality=85)
        data = sink.getvalue()
        with self._lock:
            self._bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._bytes > self._most:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data
