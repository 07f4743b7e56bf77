"""Which part of the hub answers which typed request. A feature registers its own the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.core.calls.publishing import Publish, PublishBatch
from clawnet.hub.accounts import Accounts
from clawnet.hub.grants import Grants
from clawnet.hub.reading import Reading
from clawnet.hub.tokens import Tokens

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub


def register_all(hub: Hub) -> None:
    """Register every handler of the hub's own nouns."""
    hub.handle(Publish, lambda call, caller: hub.publish_wait(caller, call))
    hub.handle(PublishBatch, hub.publishing.publish_batch)
    Reading(hub).register()
    Accounts(hub).register()
    Tokens(hub).register()
    Grants(hub).register()
    hub.consumers.register()
    hub.presence.register()
