"""From texts of a column to numbers: plain ones, angles of cyclic values, points on the globe.

What cannot be read is NaN, as what is absent: a value is never guessed.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from fgvr.arrays import Doubles
from fgvr.metadata.stored import numbers

DatePart = Literal["month", "day_of_year", "hour"]
LONGEST_DATE: Final = 64
"""Characters of a text that may be a date."""
RANGES: Final = {"month": (1, 12), "day_of_year": (1, 366), "hour": (0, 24)}
_EXIF: Final = re.compile(r"^(\d{4}):(\d\d):(\d\d)")
_YEAR_MONTH: Final = re.compile(r"^(\d{4})-(\d\d)$")
FORMATS: Final = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d")
"""Forms beside ISO 8601 and EXIF that mean one day only; 03/04/2021 means two, and is not read."""


def dates(texts: pa.Array | pa.ChunkedArray, part: DatePart) -> Doubles:
    """Month 1 … 12, day of the year 1 … 366 or hour 0 … 24 of dates, float64 [n]; NaN for what is none.

    A plain number in the part's range is taken as that part. A date without a time has no hour.
    """
    found = np.full(len(texts), np.nan)
    for place, text in enumerate(texts.to_pylist()):
        found[place] = np.nan if text is None else _of_date(text, part)
    return found


def _of_date(text: str, part: DatePart) -> float:
    if len(text) > LONGEST_DATE:
        return np.nan
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text):
        value, (low, high) = float(text), RANGES[part]
        return value if low <= value <= high else np.nan
    if part == "month" and _YEAR_MONTH.match(text):
        text += "-01"
    moment = _moment(_EXIF.sub(r"\1-\2-\3", text))
    return np.nan if moment is None else _part(moment, part)


def _part(moment: datetime | date, part: DatePart) -> float:
    if part == "month":
        return float(moment.month)
    if part == "day_of_year":
        return float(moment.timetuple().tm_yday)
    if not isinstance(moment, datetime):
        return np.nan
    return moment.hour + moment.minute / 60 + moment.second / 3600


def _moment(text: str) -> datetime | date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for form in FORMATS:
        try:
            moment = datetime.strptime(text, form)
        except ValueError:
            continue
        return moment if "%H" in form else moment.date()
    return None


def circle(values: Doubles, period: float) -> Doubles:
    """Sine and cosine of cyclic values, float64 [n, 2]; NaN stays NaN."""
    angles = 2 * np.pi * np.mod(values, period) / period
    return np.stack([np.sin(angles), np.cos(angles)], axis=1)


def sphere(latitude: Doubles, longitude: Doubles) -> Doubles:
    """Points on the unit sphere of degrees, float64 [n, 3]; NaN where a number is missing or no such degree.

    So 179° and −179° are neighbours, and a pole is one point whatever its longitude.
    """
    good = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 360)
    lat, lon = np.deg2rad(np.where(good, latitude, 0.0)), np.deg2rad(np.where(good, longitude, 0.0))
    across = np.where(np.abs(latitude) == 90, 0.0, np.cos(lat))  # cos(π/2) is 6e-17 in floats
    points = np.stack([across * np.cos(lon), across * np.sin(lon), np.sin(lat)], axis=1)
    points[~good] = np.nan
    return points


def plain(texts: pa.Array | pa.ChunkedArray, *, log: bool = False) -> Doubles:
    """Numbers, float64 [n]; with `log` sign(x) · ln(1 + |x|), which is defined for 0 and below it."""
    found = numbers(texts)
    return np.sign(found) * np.log1p(np.abs(found)) if log else found
