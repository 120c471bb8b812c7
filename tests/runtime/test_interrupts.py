"""Signals as requests."""

from __future__ import annotations

import os
import signal

import pytest

from rtk.runtime import interrupts
from rtk.runtime.interrupts import SIGNALS, Interrupts, heed_interrupt, raise_termination


@pytest.fixture
def own_handler():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_that_comes_twice_at_once_is_one_request():
    with Interrupts() as noted:
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # GNU timeout: to the process, and to its group
        assert noted.signal == signal.SIGTERM


@pytest.mark.parametrize("number", SIGNALS)
def test_a_later_signal_stops_at_once(own_handler, number, monkeypatch):
    monkeypatch.setattr(interrupts, "REPEAT_SECONDS", 0.0)
    with Interrupts() as noted:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as stop:
            send(number)
    assert stop.value.args == (number,)
    assert noted.signal == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_is_raised_once(own_handler, number):
    raise_termination()
    with pytest.raises(KeyboardInterrupt) as stop:
        send(number)
    assert stop.value.args == (number,)
    send(number)


def test_a_hangup_that_is_ignored_stays_so(own_handler):
    """As under nohup; Ctrl-C counts also where a shell's background job would ignore it."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise_termination()
    with Interrupts() as noted:
        send(signal.SIGHUP)
        assert noted.signal is None
        send(signal.SIGINT)
        assert noted.signal == signal.SIGINT


def test_handlers_are_given_back(own_handler):
    raise_termination()
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interrupt_is_heeded_also_where_a_shell_had_it_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        heed_interrupt()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
