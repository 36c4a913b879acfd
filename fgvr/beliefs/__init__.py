"""Whom to believe: posteriors over names, reliabilities of sources, suspicious labels, and when not to believe any."""
