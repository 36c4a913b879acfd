"""Prices of tokens and machine hours, from a file that says when and where they were read."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from fgvr import storage
from fgvr.config.base import Part
from fgvr.config.yaml_text import YamlError, read_yaml
from fgvr.errors import UserError
from fgvr.text_files import decoded

SHIPPED = "shipped"
"""The word for the price file that comes with this package."""
SHIPPED_FILE = Path(__file__).with_name("prices.yaml")


class PricesError(UserError, ValueError):
    """A price file cannot be read; the message names the file and the field."""


def money(usd: float) -> str:
    """An amount of US$: 1,234 and 12.34; below ten cents its first two digits, 0.034 and 0.00052."""
    if usd >= 100:
        return f"{usd:,.0f}"
    if usd >= 0.0995 or usd <= 0:
        return f"{usd:.2f}"
    return f"{usd:.{1 - math.floor(math.log10(usd))}f}"


class ModelPrice(Part):
    """Prices in US$ per million tokens."""

    input: float = Field(ge=0)
    """Prompt tokens, images included."""
    cached: float | None = Field(default=None, ge=0)
    """Prompt tokens served from the server's cache; null: as `input`."""
    output: float = Field(ge=0)
    """Answer tokens."""

    def usd(self, prompt_tokens: float, cached_tokens: float, output_tokens: float) -> float:
        """Cost of these token counts; `cached_tokens` are included in `prompt_tokens`."""
        cached = self.input if self.cached is None else self.cached
        paid = (prompt_tokens - cached_tokens) * self.input + cached_tokens * cached + output_tokens * self.output
        return paid / 1e6


class Prices(Part):
    """A price file."""

    date: dt.date
    """When the prices were read."""
    source: str
    """Where they were read."""
    currency: Literal["USD"] | None = Field(default=None, exclude=True)
    """Always US$, in which the report and `run.budget` count; null: the file does not say, and US$ is assumed. No part
    of fingerprints: another currency is refused."""
    models: dict[str, ModelPrice] = Field(default_factory=dict)
    """Prices by the model's name at its server."""
    gpu_hour: float | None = Field(default=None, ge=0)
    """US$ per hour of one GPU, including its share of cores and memory; null: unknown."""
    cpu_hour: float | None = Field(default=None, ge=0)
    """US$ per hour of one CPU core; null: unknown."""


def read_prices(uri: str) -> Prices:
    """The prices in a YAML file, or the shipped ones; raises PricesError, which names what is wrong."""
    if uri == SHIPPED:
        uri = str(SHIPPED_FILE)
    try:
        content = read_yaml(decoded(storage.read_bytes(uri)))
        return Prices.model_validate(content)
    except (FileNotFoundError, IsADirectoryError):
        raise PricesError(
            f"evaluate.prices: there is no file {uri} (`{SHIPPED}` are those of this package, of {_shipped_date()})"
        ) from None
    except OSError as error:
        raise PricesError(f"evaluate.prices: {uri} cannot be read: {error}") from None
    except (YamlError, UnicodeDecodeError) as error:
        raise PricesError(f"evaluate.prices: {uri} is no YAML file: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the file'}: {p['msg']}" for p in error.errors())
        raise PricesError(f"evaluate.prices: {uri}: {problems}") from None


def _shipped_date() -> str:
    return str(read_prices(SHIPPED).date)
