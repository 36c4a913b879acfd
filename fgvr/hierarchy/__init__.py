"""Names in a tree of kinds: reading it, metrics by level, and decisions that expect the least cost in it."""
