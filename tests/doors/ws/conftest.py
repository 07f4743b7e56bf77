"""A hub for each test."""

from collections.abc import AsyncIterator

import pytest

from clawnet.testing.running import Running, running_hub


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    async with running_hub() as running:
        yield running
