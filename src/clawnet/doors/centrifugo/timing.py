"""What happens to a client by the clock: pings, and the ends of who is silent, stale or expired.

All of it is driven by the one wheel of the process. Pings go by the wheel's own time, tokens by
the hub's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.phases import Phase
from clawnet.doors.centrifugo.wire import Reply

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client

GRACE_MS = 25_000
"""How long after its token's end a connection or subscription may still be refreshed."""
DELAY_MIN_S = 0.5


def begin(client: Client) -> None:
    """The client has connected."""
    ping_s = client.door.settings.ping_s
    # Spread over half a round, or after a restart all would be pinged at once for ever.
    part = client.door.hub.randomness.token_bytes(1)[0] / 512
    client.next_s = client.door.connections.wheel.now_s + ping_s * (0.5 + part)
    look_again(client)


def look_again(client: Client) -> None:
    """Something is due at another time than was thought."""
    if client.phase is Phase.OPEN:
        wheel = client.door.connections.wheel
        wheel.set(client, _until(client, max(client.next_s - wheel.now_s, 0.0)))


def on_time(client: Client) -> float | None:
    """The wheel came round. Answers after how many seconds again."""
    if client.phase is Phase.OVER:
        return None
    now_s = client.door.connections.wheel.now_s
    if client.phase is not Phase.OPEN:
        if now_s >= client.next_s and not client.is_waiting:
            client.disconnect(*codes.STALE)
            return None
        return max(client.next_s - now_s, DELAY_MIN_S)
    if _is_expired(client):
        return None
    settings = client.door.settings
    if not client.has_pings:
        return _until(client, settings.ping_s)
    deadline_s = client.next_s - settings.ping_s + settings.pong_timeout_s
    if client.is_pinged and now_s >= deadline_s:
        session = client.session
        # Who is not read cannot answer, and who does not read is the hub's to watch.
        if not client.is_holding and session is not None and not session.is_paused:
            client.disconnect(*codes.NO_PONG)
            return None
        client.is_pinged = False
    if now_s >= client.next_s:
        client.wire.say(client.wire.encoding.reply(Reply()))
        client.is_pinged = not client.is_uni
        client.next_s = now_s + settings.ping_s
        deadline_s = now_s + settings.pong_timeout_s
    due_s = min(deadline_s, client.next_s) if client.is_pinged else client.next_s
    return _until(client, due_s - now_s)


def _until(client: Client, delay_s: float) -> float:
    """A delay, cut where something expires."""
    for expires_ms in (client.expires_ms, client.sub_expires_ms):
        if expires_ms is not None:
            left_ms = expires_ms + GRACE_MS - client.door.hub.retention.now_ms()
            delay_s = min(delay_s, left_ms / 1000)
    return max(delay_s, DELAY_MIN_S)


def _is_expired(client: Client) -> bool:
    """End what was not refreshed in time; whether that was the connection."""
    over_ms = client.door.hub.retention.now_ms() - GRACE_MS
    if client.expires_ms is not None and client.expires_ms <= over_ms:
        client.disconnect(*codes.EXPIRED)
        return True
    if client.sub_expires_ms is None or client.sub_expires_ms > over_ms:
        return False
    client.sub_expires_ms = None
    for name, sub in client.all_subs():
        if sub.expires_ms is None:
            continue
        if sub.expires_ms > over_ms:
            client.watch_expiry(sub.expires_ms)
        elif sub.is_server:
            client.disconnect(*codes.SUB_EXPIRED)
            return True
        else:
            code, reason = codes.SUB_TOKEN_EXPIRED
            client.unsubscribe(name, code=code, reason=reason)
    return False
