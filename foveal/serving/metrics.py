"""Counters of a server in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
_PATHS = ("/", "/predict", "/info", "/livez", "/readyz", "/metrics")


class Metrics:
    """What a server has answered, and how long its answers took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answers: Counter[tuple[str, int]] = Counter()  # by path and status; 0: the client left
        self.seconds: Counter[float] = Counter()  # answers of /predict of at most so many seconds, each once
        self.sum, self.count = 0.0, 0
        self.images: Counter[str] = Counter()  # by model

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts an answer. Paths that do not exist are one."""
        place = path if path in _PATHS else "/labelstudio" if path.startswith("/labelstudio") else "other"
        with self._lock:
            self.answers[place, status] += 1
            if place == "/predict" and status == 200:
                self.sum, self.count = self.sum + seconds, self.count + 1
                self.seconds[next((b for b in BUCKETS if seconds <= b), float("inf"))] += 1

    def detected(self, model: str) -> None:
        """Counts an image of a model."""
        with self._lock:
            self.images[model] += 1

    def text(self, inside: int, connections: int) -> str:
        """All of it. ``inside``: images that wait or are detected in; ``connections``: those that are open."""
        with self._lock:
            lines = ["# TYPE foveal_requests_total counter"]
            for (path, status), number in sorted(self.answers.items()):
                lines.append(f'foveal_requests_total{{path="{path}",status="{status or "gone"}"}} {number}')
            lines.append("# TYPE foveal_images_total counter")
            lines += [f'foveal_images_total{{model="{_quoted(m)}"}} {n}' for m, n in sorted(self.images.items())]
            lines.append("# TYPE foveal_predict_seconds histogram")
            total = 0
            for bound in BUCKETS:
                total += self.seconds[bound]
                lines.append(f'foveal_predict_seconds_bucket{{le="{bound:g}"}} {total}')
            lines.append(f'foveal_predict_seconds_bucket{{le="+Inf"}} {self.count}')
            lines += [f"foveal_predict_seconds_sum {self.sum:.6f}", f"foveal_predict_seconds_count {self.count}"]
        lines += ["# TYPE foveal_inside gauge", f"foveal_inside {inside}"]
        lines += ["# TYPE foveal_connections gauge", f"foveal_connections {connections}"]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
