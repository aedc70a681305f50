"""A result that is computed beside other work: the same result, or the same error."""

from __future__ import annotations

import threading

import pytest

from cgptc.frontend.readers.ahead import Ahead


def test_work_goes_on_while_a_result_is_computed() -> None:
    free = threading.Event()
    found = Ahead(lambda: free.wait(60))
    free.set()  # only whoever came back from the constructor sets it
    assert found.result() is True
    assert found.result() is True


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    found = Ahead(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        found.result()
