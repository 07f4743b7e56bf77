"""A hub whose Socket.IO clients talk to an echo."""

from collections.abc import AsyncIterator

import pytest

from clawnet.testing.running import Running, running_hub
from tests.doors.socketio.clients import Talks


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    async with running_hub() as running:
        yield running


@pytest.fixture
def talks(hub: Running) -> Talks:
    return Talks(hub)
