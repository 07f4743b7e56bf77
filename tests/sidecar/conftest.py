"""Tests here run on a loop in which time passes at once, but for those of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from clawnet.testing.loops import TimelessLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    if item.path.name in ("test_desk.py", "test_health.py"):
        # The journal is written by threads, and a socket is a socket: both take real time.
        return {"real": asyncio.new_event_loop}
    return {"timeless": TimelessLoop}
