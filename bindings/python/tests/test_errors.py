"""The exceptions: one for each status of the header."""

import importlib.metadata
import pickle
import re

import pytest
from conftest import ROOT

import dlock
from dlock._errors import CLASSES, error_of
from dlock._native import ffi, lib

HEADER = (ROOT / "include" / "dlock.h").read_text()
STATUSES = {name: int(number) for name, number in re.findall(r"^ +(DLOCK_(?:OK|ERR_\w+)) = (\d+),$", HEADER, re.MULTILINE)}
# C says what went wrong; where Python has a word of its own for it, the class has that.
NAMES = {"CANCELLED": "LockCancelledError", "LOST": "LockLostError"}


def test_every_status_of_the_header_has_its_exception():
    assert ffi.typeof("dlock_status").relements == STATUSES, "the module was built with this header"
    assert set(CLASSES) == set(STATUSES.values()) - {lib.DLOCK_OK}
    for name, status in STATUSES.items():
        if status != lib.DLOCK_OK:
            word = name[len("DLOCK_ERR_"):]
            expected = NAMES.get(word, "".join(part.capitalize() for part in word.split("_")) + "Error")
            found = CLASSES[status]
            expected = "LockerError" if word == "LOCKER" else expected
            assert found.__name__ == expected and getattr(dlock, expected) is found
            assert found().status_name == name
            assert issubclass(found, dlock.DlockError) and found.status == status


def test_events_are_those_of_the_header():
    events = {name: int(number) for name, number in re.findall(r"^ +(DLOCK_EVENT_\w+) = (\d+),$", HEADER, re.MULTILINE)}
    assert ffi.typeof("dlock_event_kind").relements == events


def test_errors_are_also_what_python_calls_them():
    assert issubclass(dlock.LockTimeoutError, TimeoutError)
    assert issubclass(dlock.NotConnectedError, ConnectionError)
    assert issubclass(dlock.InvalidArgumentError, ValueError)


def test_a_status_of_a_later_library_is_a_dlock_error():
    error = error_of(4711, "something new")
    assert type(error) is dlock.DlockError
    assert (error.status, error.message, error.status_name) == (4711, "something new", "DLOCK_ERR_UNKNOWN")


@pytest.mark.parametrize("error", [error_of(4711, "text"), error_of(lib.DLOCK_ERR_LOST, "text")])
def test_errors_pass_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.status, copy.message) == (type(error), error.status, "text")


def test_the_version_is_that_of_the_library():
    assert dlock.__version__ == importlib.metadata.version("dlock-redis") == ffi.string(lib.DLOCK_VERSION).decode()
