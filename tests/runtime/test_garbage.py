"""Python's search for garbage is off while modules are imported, and never for good."""

from __future__ import annotations

import gc
import os
import time

import pytest

from rtk.runtime.garbage import importing, search_later


@pytest.fixture(autouse=True)
def searches():
    assert gc.isenabled()
    yield
    gc.enable()


def test_imports_are_not_searched():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_the_search_on():
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module  # noqa: F401
    assert gc.isenabled()


def test_who_has_turned_it_off_finds_it_off():
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()
    search_later(0.0)
    time.sleep(0.01)
    assert not gc.isenabled()


def test_a_command_searches_later():
    search_later(0.05)
    assert not gc.isenabled()
    until = time.monotonic() + 10
    while not gc.isenabled() and time.monotonic() < until:
        time.sleep(0.01)
    assert gc.isenabled()


def test_a_forked_process_has_no_timer_and_searches_at_once():
    search_later(60.0)
    child = os.fork()
    if not child:
        os._exit(0 if gc.isenabled() else 1)
    assert os.waitpid(child, 0)[1] == 0
