"""TensorBoard events. What TensorBoard cannot write is told and left out: it never ends a run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"  # in the run folder


class Events:
    """Writes numbers and images for TensorBoard, where it is installed and takes the path. ``problem``: why not."""

    def __init__(self, out: Path, step: int) -> None:
        self.problem = ""
        self._writer: Any = None
        self._hook = threading.excepthook
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        try:
            str(out.absolute()).encode()
        except UnicodeEncodeError:
            self.problem = "TensorBoard takes only paths that are UTF-8"
            return
        threading.excepthook = self._uncaught
        try:
            self._writer = SummaryWriter(str(out / FOLDER), purge_step=step or None)
        except OSError as error:
            self._failed(error)

    def add(self, name: str, value: float, step: int) -> None:
        if self._writer is not None and not self.problem:
            try:
                self._writer.add_scalar(name, value, step)
            except OSError as error:
                self._failed(error)

    def add_image(self, name: str, pixels: Any, step: int) -> None:
        """``pixels``: (H, W, 3) uint8."""
        if self._writer is not None and not self.problem:
            try:
                self._writer.add_image(name, pixels, step, dataformats="HWC")
            except OSError as error:
                self._failed(error)

    def close(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._failed(error)
        if threading.excepthook == self._uncaught:
            threading.excepthook = self._hook

    def _failed(self, error: OSError) -> None:
        self.problem = self.problem or f"TensorBoard stopped writing ({error.strerror or error})"

    def _uncaught(self, arguments: Any) -> None:
        """The error of a thread: TensorBoard's own thread writes the file, and would print a traceback."""
        if isinstance(arguments.exc_value, OSError) and "tensorboard" in type(arguments.thread).__module__:
            self._failed(arguments.exc_value)
        else:
            self._hook(arguments)
