"""Small pictures inside the page, so that it needs no other file."""

from __future__ import annotations

import base64
import io

from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.images import ImageError, read_image

SIDE = 176
"""Pixels; twice the size shown, for dense screens."""


def thumbnail(uri: str, limits: ImageLimits) -> tuple[str, str]:
    """(data: URI of a JPEG, "") or ("", why the image cannot be read)."""
    try:
        image = read_image(uri, limits, short_side=SIDE)
    except ImageError as error:
        return "", str(error)
    # The page shows squares: cut to one here, so that a panorama does not make it heavy.
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side > SIDE:
        square = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    square.save(sink, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}", ""
