"""A call that may be repeated safely, repeated while the hub is away or busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from clawnet.cli.terminal import note
from clawnet.core.errors import ClawError

WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0)
"""Long enough for a hub that restarts; then the command ends and can be resumed."""

WAIT_MAX_S = 30.0
"""Whatever the other side asks for."""

T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """The call's answer. Raises what is not retryable, and at last what is."""
    for wait_s in WAITS_S:
        try:
            return call()
        except ClawError as error:
            if not error.retryable:
                raise
            wait_s = min(max(wait_s, error.retry_after_s or 0.0), WAIT_MAX_S)
            note(f"claw: {error.message} Trying again in {wait_s:g} s.")
            time.sleep(wait_s)
    return call()


def again(call: Callable[[], T], *, is_first: bool) -> T:
    """For who looks again and again: the first time what is wrong is told at once, later a hub that
    restarts is waited for."""
    return call() if is_first else patiently(call)


def once_begun(call: Callable[[], T]) -> T:
    """As patiently(), but a hub that is not there at all is told at once. For what has a dedupe
    key, so that repeating it after a lost answer is harmless."""
    try:
        return call()
    except ClawError as error:
        if not error.retryable or error.facts.get("is_refused"):
            raise
    return patiently(call)
