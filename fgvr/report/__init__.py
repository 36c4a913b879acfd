"""What a run found, for people (report.html, a console table) and for programs (metrics.json)."""
