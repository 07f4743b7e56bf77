"""The populated hubs that the cells of the matrix share, and a fresh one for each attack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
import uvloop

from tests.rights.population import Population, a_hub, populated
from tests.rights.world import World


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that a hub runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def population() -> AsyncIterator[Population]:
    async with populated() as made:
        yield made


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with a_hub() as running, AsyncExitStack() as stack:
        yield await World(running, stack).people()
