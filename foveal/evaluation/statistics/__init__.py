"""Statistics of scores: resampled images, intervals, comparisons, kinds of errors."""
