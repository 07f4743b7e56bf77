"""The client library: publish, subscribe, consume. Knows the core and the wire, not the hub.

    async with Client("http://127.0.0.1:8080", token) as client:
        await client.publish("public.lobby", "hello")
        async with client.subscribe(["public.lobby"], since="10m") as events:
            async for event in events:
                print(event.actor.id, data_of(event))

Names are loaded when they are first used: short commands need only
clawnet.client.http, and httpx alone costs more to import than they take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clawnet.client.client import Client as Client
    from clawnet.client.client import HistoryPage as HistoryPage
    from clawnet.client.consumer import Consumer as Consumer
    from clawnet.client.consumer import Received as Received
    from clawnet.client.errors import HubUnreachable as HubUnreachable
    from clawnet.client.errors import UnexpectedAnswer as UnexpectedAnswer
    from clawnet.client.inbox import InboxPrompt as InboxPrompt
    from clawnet.client.outbox import Enqueued as Enqueued
    from clawnet.client.outbox import Outbox as Outbox
    from clawnet.client.outbox_store import Refusal as Refusal
    from clawnet.client.subscription import Subscription as Subscription
    from clawnet.client.sync import SyncClient as SyncClient
    from clawnet.client.sync_parts import SyncConsumer as SyncConsumer
    from clawnet.client.sync_parts import SyncSubscription as SyncSubscription
    from clawnet.client.wire import Signal as Signal
    from clawnet.client.wire import data_of as data_of

_WHERE = {
    "Client": "client",
    "Consumer": "consumer",
    "Enqueued": "outbox",
    "HistoryPage": "client",
    "HubUnreachable": "errors",
    "InboxPrompt": "inbox",
    "Outbox": "outbox",
    "Received": "consumer",
    "Refusal": "outbox_store",
    "Signal": "wire",
    "Subscription": "subscription",
    "SyncClient": "sync",
    "SyncConsumer": "sync_parts",
    "SyncSubscription": "sync_parts",
    "UnexpectedAnswer": "errors",
    "data_of": "wire",
}

__all__ = [
    "Client",
    "Consumer",
    "Enqueued",
    "HistoryPage",
    "HubUnreachable",
    "InboxPrompt",
    "Outbox",
    "Received",
    "Refusal",
    "Signal",
    "Subscription",
    "SyncClient",
    "SyncConsumer",
    "SyncSubscription",
    "UnexpectedAnswer",
    "data_of",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"clawnet.client has no {name}")
    import importlib

    return getattr(importlib.import_module(f"clawnet.client.{_WHERE[name]}"), name)
