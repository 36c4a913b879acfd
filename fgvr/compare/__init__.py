"""Backbones compared as students: what they get right, what they cost, and which one a budget allows."""
