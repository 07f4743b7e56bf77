"""The server and the WebSocket door are tested on both loops: uvloop, and asyncio's as fallback."""

import asyncio

import pytest
import uvloop

WHERE_LOOPS_DIFFER = ("pressure", "streams", "revoking", "given", "bounds")
"""Of the Centrifugo door's tests, those of its transports: what is said is the same on any loop."""


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict:
    if "http" in item.path.parts:
        return {"asyncio": asyncio.new_event_loop}
    is_alike = not any(word in item.path.stem for word in WHERE_LOOPS_DIFFER)
    if "centrifugo" in item.path.parts and is_alike:
        return {"uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
