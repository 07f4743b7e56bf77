"""C2CP v2's replay: the past of a channel, or of all that a client follows, answered to a call.

What is answered is noted in `conversation.given`, so that a revoke takes it back while unsent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.calls.chat import ChatPage, ReadChat
from clawnet.core.channels import parse
from clawnet.core.chat import envelope
from clawnet.core.cursors import parse_cursor
from clawnet.core.errors import BadRequest, Unavailable
from clawnet.core.events import Event
from clawnet.core.positions import resolve
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.doors.socketio.v2_requests import Replay

if TYPE_CHECKING:
    from clawnet.doors.socketio.conversation import Conversation
    from clawnet.hub.subscriptions import Subscription

READS_MAX = 5
"""So often a read is begun again because rights changed meanwhile."""

_decode_event = msgspec.json.Decoder(Event).decode


async def replay_channel(conversation: Conversation, said: Replay) -> dict[str, Any]:
    """One channel behind an offset."""
    if said.channel is None:
        raise BadRequest(
            "replay names a channel, or a cursor in since.",
            next="Give channel and offset of the last message you have.",
        )
    call = ReadChat(channel=said.channel, after=said.offset, epoch=said.epoch, limit=said.limit)
    page = await conversation.call(call)
    assert isinstance(page, ChatPage)
    conversation.given.add(page.channel)
    answer = {
        "ok": True,
        "channel": page.channel,
        "epoch": page.epoch,
        "events": page.events,
        "next": page.next,
        "is_end": page.is_end,
    }
    if page.gap is not None:
        answer["gap"] = {"asked": said.offset, "oldest": page.gap.oldest}
    return answer


async def replay_since(
    conversation: Conversation, subscription: Subscription | None, said: Replay
) -> dict[str, Any]:
    """What was said behind a cursor on all that this client follows, in order of the log."""
    hub = conversation.hub
    cursor = parse_cursor(said.since or "")
    if subscription is None:
        raise Unavailable("The connection has not begun yet.", retry_after_s=0.5)
    for _ in range(READS_MAX):
        world, position = conversation.world, hub.fanout.position
        resolved = resolve(cursor, epochs=hub.log_epochs, last_seq=position)
        rights_at = hub.directory.version
        names = frozenset(
            subscription.exact.keys() | hub.covered(hub.fanout.world(world), subscription)
        )
        hub.ration.take_call(conversation.caller)
        chunk = await hub.storage.read(
            lambda log, world=world, names=names, at=resolved.seq, to=position: log.read_log(  # type: ignore[misc]
                world, names, after_seq=at, up_to_seq=to, limit=said.limit
            )
        )
        if hub.directory.version != rights_at:
            # A narrowing may have hidden what was just read.
            continue
        events = []
        for line in chunk.body.split(b"\n") if chunk.body else ():
            event = _decode_event(line)
            shown = envelope(event, reader=conversation.account)
            decision = decide(conversation.caller, Verb.READ, parse(event.channel), hub.directory)
            is_open = isinstance(decision, Allowed) and event.offset >= decision.from_offset
            if shown is not None and is_open:
                events.append(shown)
                conversation.given.add(event.channel)
        answer = {
            "ok": True,
            "events": events,
            "next": f"{hub.log_epoch}-{max(chunk.seq, resolved.seq)}",
            "is_end": chunk.is_end,
        }
        oldest = max((missing.last + 1 for missing in chunk.missing), default=None)
        if resolved.lost is not None or oldest is not None:
            answer["gap"] = {"asked": said.since, "oldest": oldest}
        return answer
    raise Unavailable("Rights change too fast to read.", retry_after_s=1.0)
