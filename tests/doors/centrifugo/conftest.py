"""A hub with declared namespaces for each test."""

from collections.abc import AsyncIterator

import pytest

from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import SETTINGS, door_of


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    async with door_of(SETTINGS) as running:
        yield running
