"""Waiting for a condition with a deadline, never for a time.

A wait that fails says what it was waiting for, and what was last seen::

    >>> wait_until(lambda: 2 > 1, 5, "arithmetic")
    True
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
"""Between two looks: far below anything a test measures, far above the price of a look."""


def wait_until(condition: Callable[[], T], timeout_seconds: float, what: str | Callable[[], str]) -> T:
    """Return the first true value of ``condition``.

    Args:
        condition: Asked every 20 ms, and at least once.
        timeout_seconds: After this long the wait fails.
        what: What is awaited, for the error; called when it must say what was last seen.

    Raises:
        TimeoutError: the condition stayed false; the text holds ``what``.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise TimeoutError(f"after {timeout_seconds:g} s still waiting for {text}")
        time.sleep(POLL_SECONDS)
