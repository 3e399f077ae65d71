"""The comparison of several runs: what may be compared, the differences of their scores, and the page."""
