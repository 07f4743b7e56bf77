"""What tests of the inbox ask of it, and how they read what it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.inbox import AckInbox, InboxAcked, InboxPage, ReadInbox
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import HubRig, event

BOX = "agent.ada.inbox"


async def read(rig: HubRig, caller: Caller, **named: Any) -> InboxPage:
    page: InboxPage = await rig.hub.call(ReadInbox(**named), caller=caller)
    return page


async def ack(rig: HubRig, caller: Caller, *ids: str, **named: Any) -> InboxAcked:
    done: InboxAcked = await rig.hub.call(AckInbox(events=list(ids), **named), caller=caller)
    return done


def data(page: InboxPage) -> list[Any]:
    return [msgspec.json.decode(message.event)["data"] for message in page.messages]


def ids(page: InboxPage) -> list[str]:
    return [str(msgspec.json.decode(message.event)["id"]) for message in page.messages]


async def many(rig: HubRig, caller: Caller, n: int, *, size: int = 1) -> None:
    """`n` messages to ada, each with its number from 1 and as many bytes more."""
    for i in range(n):
        text = [i + 1] if size == 1 else [i + 1, "x" * size]
        rig.hub.publish(caller, event(BOX, text), lane=Lane(), reply=lambda _: None)
    await rig.hub.drain()


def numbers(page: InboxPage) -> list[int]:
    return [value[0] for value in data(page)]


async def waiting(rig: HubRig, caller: Caller, **named: Any) -> asyncio.Task[InboxPage]:
    work = asyncio.create_task(read(rig, caller, wait_s=60, **named))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not work.done()
    return work
