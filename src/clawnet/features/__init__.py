"""What is built on the hub, one noun for each package. Features meet by events and calls."""

from __future__ import annotations

from clawnet.features.deadlines import DeadlinesFeature
from clawnet.features.inbox import InboxFeature
from clawnet.hub.hub import Hub


def attach_all(hub: Hub) -> None:
    """Attach every feature of this version, before the hub starts."""
    hub.attach(InboxFeature())
    hub.attach(DeadlinesFeature())
