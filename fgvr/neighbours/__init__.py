"""Nearest neighbours of vectors by cosine similarity: search plan, exact search, and search by inverted file."""

from fgvr.arrays import Floats, Ids
from fgvr.neighbours.found import Neighbours, Vectors
from fgvr.neighbours.nearest import nearest
from fgvr.neighbours.plan import Plan, Size, Wanted, plan

__all__ = ["Floats", "Ids", "Neighbours", "Plan", "Size", "Vectors", "Wanted", "nearest", "plan"]
