"""Signals that wait until the work is safe."""

import signal
import threading
import time

import pytest

from hrnet_zoo.training.interruption import ECHO_S, Interruption


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
    ids=["SIGINT", "SIGTERM"],
)
def test_the_first_signal_is_noted_and_a_later_one_acts(
    number: signal.Signals, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with Interruption() as stop:
            assert stop.signal is None
            signal.raise_signal(number)
            assert stop.signal is number
            clock[0] += ECHO_S / 2
            for echo in Interruption.SIGNALS:  # by a launcher that was signalled too
                signal.raise_signal(echo)
            assert stop.signal is number
            clock[0] += ECHO_S
            with pytest.raises(expected):
                signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(*_: object) -> None:
    raise SystemExit(1)


def test_aloud_it_tells_once_that_it_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption(aloud=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # an echo
    assert capfd.readouterr().err.count("stopping") == 1


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in Interruption.SIGNALS]
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in Interruption.SIGNALS] == before


def test_leaving_is_what_the_signal_asks_for() -> None:
    with pytest.raises(KeyboardInterrupt):
        Interruption.leave(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        Interruption.leave(signal.SIGTERM)
    assert caught.value.code == 143


def test_in_another_thread_it_stands_aside() -> None:
    seen = []

    def work() -> None:
        with Interruption() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
