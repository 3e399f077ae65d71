"""Pages about runs: ``report.html`` of one, the comparison of several, the check of a detector on its data."""
