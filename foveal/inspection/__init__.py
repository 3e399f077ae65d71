"""Look inside a detector: the reason why each candidate was dropped, the verdict on each object, and their pages."""
