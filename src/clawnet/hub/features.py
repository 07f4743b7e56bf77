"""What a feature is to the hub. Which features there are is said by hub.registry and by the
package clawnet.features; the hub calls them, and they know the hub and core.calls, never each
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.core.events import Stored

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub


Row = tuple[str, str, str, float]
"""A figure without labels: its name, its kind (gauge, counter), what it says, and its value."""


class Feature:
    """Something built on the log: it registers the calls that it answers and has a life
    beside the hub's. What it does not override does nothing."""

    def register(self, hub: Hub) -> None:
        """Register calls (hub.handle), companions and interceptors. Before start()."""

    async def load(self) -> None:
        """Take up what is stored. While the hub starts; publishing is not possible yet."""

    async def run(self) -> None:
        """The feature's own loop, begun again if it fails; cancelled when the hub closes.

        One that has none just returns.
        """

    async def flush(self) -> None:
        """Store what was written behind; the hub closes."""

    def metrics(self) -> list[Row]:
        """What it counts, for /metrics. Must be quick."""
        return []

    def stored(self, stored: list[Stored]) -> None:
        """New events were committed and handed to the live subscribers. Must be quick."""
