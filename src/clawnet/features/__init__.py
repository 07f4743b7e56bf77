"""What is built on the hub, one noun for each package. Features meet by events and calls."""

from __future__ import annotations

import msgspec

from clawnet.features.access import AccessFeature
from clawnet.features.adverts import AdvertsFeature
from clawnet.features.bridge.settings import BridgeSettings
from clawnet.features.deadlines import DeadlinesFeature
from clawnet.features.identity import IdentityFeature
from clawnet.features.identity.settings import IdentitySettings
from clawnet.features.inbox import InboxFeature
from clawnet.features.timers import TimersFeature
from clawnet.hub.hub import Hub


class FeatureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What features can be told; app.config merges it from the packages' own settings."""

    identity: IdentitySettings = IdentitySettings()
    bridge: BridgeSettings = BridgeSettings()
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
    if settings.bridge.centrifugo_url is not None:
        # Most hubs have none, and its HTTP client takes time to load.
        from clawnet.features.bridge.centrifugo import Centrifugo
        from clawnet.features.bridge.feature import BridgeFeature

        url, timeout_s = settings.bridge.centrifugo_url, settings.bridge.timeout_s
        hub.attach(BridgeFeature(Centrifugo(url, key=settings.centrifugo_key, timeout_s=timeout_s)))
