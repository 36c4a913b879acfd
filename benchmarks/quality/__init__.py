"""The quality of names, candidate sets and detections, where no paper has a table."""
