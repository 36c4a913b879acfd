"""How good names, candidate sets and detections are, where no paper has a table."""
