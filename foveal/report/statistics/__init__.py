"""Statistics of a run's detections at one threshold."""
