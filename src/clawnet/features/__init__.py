"""What is built on the hub, one noun for each package. Features meet by events and calls."""

from __future__ import annotations

from pathlib import Path

import msgspec

from clawnet.features.access import AccessFeature
from clawnet.features.adverts import AdvertsFeature
from clawnet.features.audit import AuditFeature, NoAudit
from clawnet.features.audit.settings import AuditSettings
from clawnet.features.bridge.settings import BridgeSettings
from clawnet.features.chat import ChatFeature
from clawnet.features.chat.settings import ChatSettings
from clawnet.features.deadlines import DeadlinesFeature
from clawnet.features.fleet import FleetFeature
from clawnet.features.fleet.settings import FleetSettings
from clawnet.features.identity import IdentityFeature
from clawnet.features.identity.settings import IdentitySettings
from clawnet.features.inbox import InboxFeature
from clawnet.features.marks import MarksFeature
from clawnet.features.tasks import TasksFeature
from clawnet.features.tasks.settings import TasksSettings
from clawnet.features.timers import TimersFeature
from clawnet.features.warden import WardenFeature
from clawnet.features.warden.settings import WardenSettings
from clawnet.hub.hub import Hub


class FeatureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What features can be told; app.config merges it from the packages' own settings."""

    identity: IdentitySettings = IdentitySettings()
    bridge: BridgeSettings = BridgeSettings()
    chat: ChatSettings = ChatSettings()
    tasks: TasksSettings = TasksSettings()
    fleet: FleetSettings = FleetSettings()
    audit: AuditSettings = AuditSettings()
    warden: WardenSettings = WardenSettings()
    folder: Path | None = None
    """Where the audit chain lies; None: there is none."""
    centrifugo_key: str | None = None
    has_timers: bool = True
    """Off for tests that count what a hub under the real clock stores."""


def attach_all(hub: Hub, settings: FeatureSettings | None = None) -> None:
    """Attach every feature of this version, before the hub starts."""
    settings = settings or FeatureSettings()
    hub.attach(InboxFeature())
    hub.attach(DeadlinesFeature())
    hub.attach(AdvertsFeature())
    hub.attach(AccessFeature())
    if settings.has_timers:
        hub.attach(TimersFeature())
    hub.attach(IdentityFeature(settings.identity))
    hub.attach(MarksFeature())
    hub.attach(ChatFeature(settings.chat))
    hub.attach(TasksFeature(settings.tasks))
    hub.attach(FleetFeature(settings.fleet, folder=settings.folder))
    if settings.folder is not None and settings.audit.enabled:
        hub.attach(AuditFeature(settings.audit, settings.folder))
    else:
        hub.attach(NoAudit())
    hub.attach(WardenFeature(settings.warden))
    if settings.bridge.centrifugo_url is not None:
        # Most hubs have none, and its HTTP client takes time to load.
        from clawnet.features.bridge.centrifugo import Centrifugo
        from clawnet.features.bridge.feature import BridgeFeature

        url, timeout_s = settings.bridge.centrifugo_url, settings.bridge.timeout_s
        hub.attach(BridgeFeature(Centrifugo(url, key=settings.centrifugo_key, timeout_s=timeout_s)))
