"""A first signal is noted, a later one acts."""

import signal
import threading
import time

import pytest

from hrnet_zoo.training.signals import ECHO_S, STOP_SIGNALS, noted_signals


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
        with noted_signals(verbose=False) as noted:
            assert not noted
            signal.raise_signal(number)
            assert list(noted) == [number]
            clock[0] += ECHO_S / 2
            for echo in STOP_SIGNALS:  # by a launcher that was signalled too
                signal.raise_signal(echo)
            assert list(noted) == [number]
            clock[0] += ECHO_S
            with pytest.raises(expected):
                signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(*_: object) -> None:
    raise SystemExit(1)


def test_aloud_it_tells_once_that_it_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with noted_signals(verbose=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # an echo
    assert capfd.readouterr().err.count("stopping") == 1


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with noted_signals(verbose=False):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_in_another_thread_it_stands_aside() -> None:
    seen = []

    def work() -> None:
        with noted_signals(verbose=False):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
