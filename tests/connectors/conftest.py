"""Time passes at once: no test here waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clawnet.testing.loops import TimelessLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"timeless": TimelessLoop}
