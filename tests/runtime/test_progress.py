"""The console output of a training run, without a terminal."""

from __future__ import annotations

import io

import pytest

from foveal.runtime import progress
from foveal.runtime.progress import Console, duration


class Time:
    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def iterate(console: Console, time: Time, count: int, seconds: float) -> None:
    for step in range(count):
        time.seconds += seconds
        console.values({"loss": float(step), "cls": 0.5}, 2, 30.0, {"data": 1.0, "forward": 3.0})
        console.update(step + 1, 0, 65.0, count)


def test_epochs_are_summarized_by_their_mean_loss(time: Time) -> None:
    console = Console(stream=io.StringIO())
    assert console.epoch_summary(10.0) == ""  # nothing was trained
    iterate(console, time, 3, 1.0)
    console.values({"loss": 5.0, "cls": 0.5}, 6, 30.0, {"data": 1.0})
    # 2 iterations each of loss 0, 1 and 2, and 6 of loss 5
    assert console.epoch_summary(3661.0) == "training loss 3.0000, 1:01:01 left"
    assert console.epoch_summary() == ""


@pytest.mark.parametrize(("verbose", "expected"), [(False, 2), (True, 60)])
def test_progress_lines_are_rare_unless_verbose(time: Time, verbose: bool, expected: int) -> None:
    """600 s of iterations of 1 s: a line every 300 s, or every 10 s."""
    stream = io.StringIO()
    iterate(Console(stream=stream, verbose=verbose), time, 600, 1.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == expected
    assert lines[-1] == (
        "epoch 1  iteration 600/600  loss 599.0000  cls 0.5000  30.0 images/s  (data 25%, forward 75%)  1:05 left"
    )


def test_messages() -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.print("")
    console.print("a [bold]line[/bold]")
    console.detail("not by default")
    console.print_once(["b", "b"])
    console.print_once(["b", "c"])
    Console(shown=False, verbose=True, stream=stream).print("never")
    assert stream.getvalue().splitlines() == ["a [bold]line[/bold]", "b", "c"]


def test_task_progress_is_printed_periodically(time: Time) -> None:
    stream = io.StringIO()
    on_progress = Console(stream=stream).task("maps")
    for done in range(1, 31):
        time.seconds += 20.0
        on_progress(done, 30)
    assert stream.getvalue().splitlines() == ["maps: 15/30", "maps: 30/30"]


def test_duration() -> None:
    assert [duration(s) for s in (-1, 0, 59.6, 200, 3909)] == ["0:00", "0:00", "1:00", "3:20", "1:05:09"]
