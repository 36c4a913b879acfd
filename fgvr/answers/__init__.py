"""Answers that are there already: files of old labels, product titles or a vendor's batch output, as answer rows."""
