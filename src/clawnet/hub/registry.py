"""Which part of the hub answers which typed request. A feature registers its own the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.core.calls.publishing import Publish, PublishBatch
from clawnet.hub.accounts import Accounts
from clawnet.hub.archive import Archive
from clawnet.hub.grants import Grants
from clawnet.hub.invitations import Invitations
from clawnet.hub.reading import Reading
from clawnet.hub.registration import Registration
from clawnet.hub.tokens import Tokens
from clawnet.hub.tracing import Tracing
from clawnet.hub.worlds import Worlds

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub


def register_all(hub: Hub) -> None:
    """Register every handler of the hub's own nouns."""
    hub.handle(Publish, lambda call, caller: hub.publish_wait(caller, call))
    hub.handle(PublishBatch, hub.publishing.publish_batch)
    Reading(hub).register()
    Tracing(hub).register()
    Accounts(hub).register()
    Registration(hub).register()
    hub.foreign.register()
    hub.attach(Worlds(hub))
    hub.attach(Invitations(hub))
    hub.attach(Tokens(hub))
    hub.attach(hub.uses)
    hub.attach(hub.controls)
    Grants(hub).register()
    Archive(hub).register()
    hub.consumers.register()
    hub.presence.register()
