"""Measurements that take long, a command each: see docs/benchmarks.md. Nothing in the product imports this package."""
