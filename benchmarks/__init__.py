"""Long measurements, one command per benchmark: see docs/benchmarks.md. Nothing in the product imports this package."""

import fgvr  # noqa: F401 - prepares torchvision beside a CPU torch, before anything here imports it
