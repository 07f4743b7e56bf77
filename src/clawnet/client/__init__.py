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
    from clawnet.client.subscription import Subscription as Subscription
    from clawnet.client.wire import Signal as Signal
    from clawnet.client.wire import data_of as data_of

_WHERE = {
    "Client": "client",
    "Consumer": "consumer",
    "HistoryPage": "client",
    "HubUnreachable": "errors",
    "Received": "consumer",
    "Signal": "wire",
    "Subscription": "subscription",
    "UnexpectedAnswer": "errors",
    "data_of": "wire",
}

__all__ = [
    "Client",
    "Consumer",
    "HistoryPage",
    "HubUnreachable",
    "Received",
    "Signal",
    "Subscription",
    "UnexpectedAnswer",
    "data_of",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"clawnet.client has no {name}")
    import importlib

    return getattr(importlib.import_module(f"clawnet.client.{_WHERE[name]}"), name)
