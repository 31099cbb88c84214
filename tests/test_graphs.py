"""Which shapes are captured, how long captures stay, threads, calls from within, want of memory."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hrnet_zoo.engines.graphs import IDLE, MOST, REMEMBERED, Graphs, first_line


class Copy:
    """A capture as CUDA's: one input and one output, both overwritten by each replay."""

    def __init__(self, recorder: "Recorder", x: Tensor) -> None:
        self.size = x.numel()
        self.input = torch.empty_like(x)
        self.recorder = recorder
        self.inside = 0
        self.closed = False

    def replay(self, x: Tensor) -> Tensor:
        """Double the input, by way of the buffer."""
        assert not self.closed
        self.inside += 1
        assert self.inside == 1, "one replay at a time"
        self.input.copy_(x)
        self.recorder.during()
        result = self.input * 2
        self.inside -= 1
        self.recorder.replays += 1
        return result

    def close(self) -> None:
        """End."""
        assert not self.closed
        self.closed = True


class Recorder:
    """What ran step by step, what was captured, and something to happen in the middle of replays."""

    def __init__(self, **options: Any) -> None:
        self.runs = self.replays = 0
        self.captures: list[Copy] = []
        self.during: Callable[[], None] = lambda: None
        self.failure: Exception | None = None
        self.graphs = Graphs(self.run, self.capture, **{"budget": 1 << 40, **options})

    def run(self, x: Tensor) -> Tensor:
        """Double the input."""
        self.runs += 1
        return x * 2

    def capture(self, x: Tensor) -> Copy:
        """Return a capture, or fail."""
        if self.failure is not None:
            raise self.failure
        self.captures.append(Copy(self, x))
        return self.captures[-1]

    def __call__(self, side: int, value: float = 1.0) -> Tensor:
        """Run a picture of that side, of one value."""
        x = torch.full((1, 3, side, side), value)
        result = self.graphs(x)
        assert torch.equal(result, x * 2)
        return result

    @property
    def sides(self) -> list[int]:
        """Sides of the shapes that are captured."""
        return [shape[2] for shape in self.graphs.shapes]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Runs step by step, captures, replays."""
        return self.runs, len(self.captures), self.replays


def test_first_step_by_step_then_captured_then_replayed() -> None:
    record = Recorder()
    results = [record(8, value) for value in (1.0, 2.0, 3.0, 4.0)]
    assert record.counts == (1, 1, 3)
    assert [float(each.max()) for each in results] == [2, 4, 6, 8]  # no result is overwritten by a later run
    record(9)
    assert record.counts == (2, 1, 3)
    record.graphs(torch.zeros(2, 3, 8, 8))  # another batch is another shape
    assert record.counts == (3, 1, 3)


def test_more_shapes_than_are_kept_do_not_drive_each_other_out() -> None:
    record = Recorder(most=4)
    for _ in range(10):
        for side in range(1, 7):
            record(side)
    assert len(record.captures) == 4
    assert record.sides == [1, 2, 3, 4]
    assert record.replays == 4 * 9


def test_what_was_not_used_for_long_gives_way() -> None:
    record = Recorder(most=2)
    for side in (1, 1, 2, 2):
        record(side)
    for call in range(IDLE + 1):
        record(1)
        record(3)
        assert record.sides[-1] == (3 if call >= IDLE // 2 else 1)
    assert sorted(record.sides) == [1, 3]
    assert [each.closed for each in record.captures] == [False, True, False]


def test_hundreds_of_sizes_are_never_captured_nor_remembered_for_ever() -> None:
    record = Recorder()
    for _ in range(2):
        for side in range(1, REMEMBERED + 2):
            record(side)
    assert record.counts == (2 * (REMEMBERED + 1), 0, 0)
    assert len(record.graphs._worth) == REMEMBERED


def test_as_many_as_promised() -> None:
    record = Recorder()
    for side in range(1, MOST + 2):
        record(side)
        record(side)
    assert len(record.sides) == MOST


def test_captures_stay_within_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    record = Recorder(budget=3 * (100 + 64) + 10)
    for side in (10, 10, 8, 8, 9, 9, 9):
        record(side)
    assert record.sides == [10, 8]
    assert record.captures[-1].closed
    assert len(record.captures) == 3  # it is not tried again and again
    assert [each.getMessage() for each in caplog.records] == [
        "no CUDA graph of 1 x 9 x 9 pixels: the others and it would take too much memory"
    ]


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("CUDA out of memory\nmore"), RuntimeError("not permitted")])
def test_what_cannot_be_captured_runs_step_by_step(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    record = Recorder()
    record.failure = failure
    for _ in range(5):
        record(8)
    assert record.counts == (5, 0, 0)
    (line,) = (each.getMessage() for each in caplog.records)
    assert line == f"no CUDA graph of 1 x 8 x 8 pixels, its steps are started one by one: {first_line(failure)}"
    record.failure = None
    record(9)
    record(9)
    assert record.sides == [9]


def test_an_error_of_our_own_is_not_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    record = Recorder()
    record.failure = TypeError("a defect")
    record(8)
    with pytest.raises(TypeError), caplog.at_level(logging.WARNING):
        record(8)
    assert not caplog.records
    record.failure = None
    record(8)  # and leaves nothing locked
    assert record.sides == [8]


def test_called_from_within_by_the_same_thread() -> None:
    record = Recorder()
    record(8)
    record(8)
    inner: list[Tensor] = []

    def during() -> None:
        record.during = lambda: None
        inner.append(record(8, 5.0))

    record.during = during
    record(8, 7.0)
    assert float(inner[0].max()) == 10
    assert record.counts == (2, 1, 2)


def test_threads_share_captures() -> None:
    record = Recorder()
    record(8)
    record(8)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(50):
                record(8, number + turn / 64)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert record.counts == (1, 1, 201)


def test_clear_gives_all_back_and_capturing_begins_anew() -> None:
    record = Recorder()
    record(8)
    record(8)
    record.graphs.clear()
    assert record.captures[0].closed
    assert not record.sides
    record(8)
    record(8)
    assert record.sides == [8]


def test_first_line() -> None:
    assert first_line(RuntimeError("one\ntwo")) == "one"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert len(first_line(RuntimeError("x" * 1000))) == 200
