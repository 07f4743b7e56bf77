"""Nothing crosses worlds, on any door: every route is asked about main from another world.

The other world is made as users make it, and has accounts with the same ids. A route that is new
fails here until it says what to ask of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from clawnet.core.calls.adverts import Advertise
from clawnet.doors.http.app import HOT, ROUTES
from clawnet.hub.tokens import bootstrap_admin
from tests.rights.world import World

SECRET = "main's own"
ONLY_MAIN = ("walt", "Walther", "wanda", "mine-alone", "room.team", "walled")
"""Names that no answer to another world may hold."""
STRANGERS = ("admin@other", "olga@other", "wim@other")


class Main(NamedTuple):
    """What there is in main, by its ids."""

    world: World
    event: str
    trace: str
    token: str
    consumer: str
    invitation: str
    secret: str
    delivery: dict[str, int]
    offset: int
    said: str
    task: str


@pytest.fixture
async def main(world: World) -> Main:
    admin = await bootstrap_admin(world.hub, None)
    assert admin is not None
    world.tokens["admin"] = admin
    made = await world.does("admin", "POST", "/worlds", {"id": "other"})
    world.tokens["admin@other"] = made["token"]
    for who, role in (("olga", "worker"), ("greta", "worker"), ("wim", "warden")):
        await world.does("admin@other", "POST", "/accounts", {"id": who, "role": role})
        token = await world.does("admin@other", "POST", "/tokens", {"account": who})
        world.tokens[f"{who}@other"] = token["token"]
    await world.does("walt", "PATCH", "/accounts/walt", {"handle": "Walther"})
    trace = "0af7651916cd43dd8448eb211c80319c"
    event = await world.does(
        "greta", "POST", "/channels/agent.olga.inbox/events",
        {
            "data": SECRET, "correlation_id": "corr-1",
            "traceparent": f"00-{trace}-b7ad6b7169203331-01",
        },
    )  # fmt: skip
    for channel in ("public.news", "agent.olga.diary", "room.team", "dm.greta.olga"):
        await world.says(channel, SECRET)
    await world.grant("olga", "greta", "diary")
    await world.does("olga", "PUT", "/blocks/walt")
    consumer = {"name": "mine-alone", "channels": ["public.news"], "since": "all"}
    await world.does("olga", "POST", "/consumers", consumer)
    fetched = await world.does("olga", "POST", "/consumers/mine-alone/fetch", {"limit": 1})
    delivery = {key: fetched["deliveries"][0][key] for key in ("seq", "attempt")}
    invitation = await world.does("admin", "POST", "/invitations", {})
    await world.does("greta", "POST", "/rooms", {"room": "walled", "private": True})
    here = {"to_type": "room", "to_id": "walled", "payload": {"text": SECRET}}
    said = await world.does("greta", "POST", "/messages", here)
    work = {"to": "olga", "command": SECRET, "kind": "custom"}
    given = await world.does("max", "POST", "/tasks", work)
    notes = Advertise(channel="agent.olga.notes", description=SECRET)
    await world.hub.call(notes, caller=world.hub.authenticate(world.tokens["olga"]))
    return Main(
        world, event["id"], trace, world.token_ids["walt"], "mine-alone", invitation["id"],
        invitation["link"].partition("#")[2], delivery, event["offset"], said["id"],
        given["task_ids"][0],
    )  # fmt: skip


Ask = tuple[str, Any, set[int]]
"""A path below the door's root, a body, and the statuses that are right."""

NOT_THERE = {403, 404}
DATA = {"data": "theirs"}


def about_walt(path: str, status: int) -> Callable[[Main], list[Ask]]:
    """A question that the holder of the hub's own secrets could ask."""
    return lambda m: [(path, {"channel": "agent.walt.inbox", "user": "walt"}, {status})]


ASKED: dict[tuple[str, str], Callable[[Main], list[Ask]]] = {
    ("GET", "/api/v1/channels"): lambda m: [("/api/v1/channels?limit=1000", None, {200})],
    ("GET", "/api/v1/channels/{channel}/events"): lambda m: [
        (f"/api/v1/channels/{name}/events?{how}", None, {200, 403})
        for name in (
            "public.news",
            "agent.olga.inbox",
            "agent.olga.diary",
            "room.team",
            "dm.greta.olga",
            "system.accounts",
        )
        for how in ("", "reverse=true", "since=1", "since=1d")
    ],
    ("POST", "/api/v1/channels/{channel}/events"): lambda m: [
        ("/api/v1/channels/agent.walt.inbox/events", DATA, NOT_THERE),
        ("/api/v1/channels/public.news/events", DATA, {201}),
    ],
    ("POST", "/api/v1/events/batch"): lambda m: [
        ("/api/v1/events/batch", {"events": [{"channel": "agent.walt.inbox", **DATA}]}, NOT_THERE),
    ],
    ("POST", "/pub/{channel}"): lambda m: [("/pub/agent.walt.inbox", b"theirs", NOT_THERE)],
    ("POST", "/api/v1/channels/{channel}/lock"): lambda m: [
        ("/api/v1/channels/agent.walt.diary/lock", None, {403}),
    ],
    ("POST", "/api/v1/channels/{channel}/unlock"): lambda m: [
        ("/api/v1/channels/agent.walt.diary/unlock", None, {403}),
    ],
    ("GET", "/api/v1/events/{id}"): lambda m: [(f"/api/v1/events/{m.event}", None, {404})],
    ("GET", "/api/v1/events/{id}/receipt"): lambda m: [
        (f"/api/v1/events/{m.event}/receipt", None, {404}),
    ],
    ("GET", "/api/v1/traces/{id}"): lambda m: [
        (f"/api/v1/traces/{of}", None, {404}) for of in (m.trace, m.event, "corr-1")
    ],
    ("GET", "/api/v1/audit/key"): lambda m: [("/api/v1/audit/key", None, {404})],
    ("GET", "/api/metrics"): lambda m: [("/api/metrics", None, {200})],
    ("GET", "/api/traffic"): lambda m: [("/api/traffic", None, {404})],
    ("GET", "/api/logs/{kind}"): lambda m: [
        (f"/api/logs/{kind}", None, {200, 403, 404}) for kind in ("server", "tasks", "audit")
    ],
    ("GET", "/api/agents/{id}"): lambda m: [("/api/agents/walt", None, {404})],
    ("GET", "/api/v1/restore"): lambda m: [("/api/v1/restore", None, {200, 403})],
    ("POST", "/api/v1/restore/events"): lambda m: [
        ("/api/v1/restore/events", {"events": []}, {403, 409})
    ],
    ("POST", "/api/v1/restore/done"): lambda m: [("/api/v1/restore/done", {}, {200, 403})],
    ("GET", "/api/v1/consumers"): lambda m: [("/api/v1/consumers", None, {200})],
    ("POST", "/api/v1/consumers"): lambda m: [
        ("/api/v1/consumers", {"name": "c", "channels": ["agent.walt.>"]}, {201, 403}),
    ],
    ("GET", "/api/v1/consumers/{name}"): lambda m: [
        (f"/api/v1/consumers/{m.consumer}", None, {404}),
    ],
    ("DELETE", "/api/v1/consumers/{name}"): lambda m: [
        (f"/api/v1/consumers/{m.consumer}", None, {404}),
    ],
    ("POST", "/api/v1/consumers/{name}/fetch"): lambda m: [
        (f"/api/v1/consumers/{m.consumer}/fetch", {}, {404}),
    ],
    ("POST", "/api/v1/consumers/{name}/ack"): lambda m: [
        (f"/api/v1/consumers/{m.consumer}/ack", {"deliveries": [m.delivery]}, {404}),
    ],
    ("POST", "/api/v1/consumers/{name}/nack"): lambda m: [
        (f"/api/v1/consumers/{m.consumer}/nack", {"deliveries": [m.delivery]}, {404}),
    ],
    ("GET", "/api/v1/accounts"): lambda m: [("/api/v1/accounts?limit=1000", None, {200})],
    ("POST", "/api/v1/accounts"): lambda m: [
        ("/api/v1/accounts", {"id": "new", "world": "main"}, {400}),
    ],
    ("GET", "/api/v1/accounts/{id}"): lambda m: [("/api/v1/accounts/walt", None, {404})],
    ("PATCH", "/api/v1/accounts/{id}"): lambda m: [
        ("/api/v1/accounts/walt", {"role": "master"}, NOT_THERE),
        ("/api/v1/accounts/walt", {"handle": "theirs"}, NOT_THERE),
    ],
    ("DELETE", "/api/v1/accounts/{id}"): lambda m: [("/api/v1/accounts/walt", None, NOT_THERE)],
    ("GET", "/api/v1/accounts/{id}/wake"): lambda m: [("/api/v1/accounts/walt/wake", None, {404})],
    ("GET", "/api/v1/tokens"): lambda m: [
        ("/api/v1/tokens?account=walt", None, NOT_THERE),
        ("/api/v1/tokens", None, {200}),
    ],
    ("POST", "/api/v1/tokens"): lambda m: [("/api/v1/tokens", {"account": "walt"}, NOT_THERE)],
    ("POST", "/api/v1/tokens/jwt"): lambda m: [("/api/v1/tokens/jwt", {}, {200, 201})],
    ("DELETE", "/api/v1/tokens/{id}"): lambda m: [(f"/api/v1/tokens/{m.token}", None, {404})],
    ("GET", "/api/v1/grants"): lambda m: [
        ("/api/v1/grants", None, {200}),
        ("/api/v1/grants?account=greta", None, {200}),
    ],
    ("POST", "/api/v1/grants"): lambda m: [
        ("/api/v1/grants", {"account": "walt", "channel": "theirs"}, NOT_THERE),
    ],
    ("DELETE", "/api/v1/grants"): lambda m: [
        ("/api/v1/grants", {"account": "walt", "channel": "theirs"}, NOT_THERE),
        ("/api/v1/grants", {"account": "greta", "channel": "agent.olga.diary"}, {200, 403}),
    ],
    ("GET", "/api/v1/export"): lambda m: [("/api/v1/export", None, {200, 403})],
    ("POST", "/api/v1/import"): lambda m: [],
    ("GET", "/api/v1/inbox"): lambda m: [
        ("/api/v1/inbox", None, {200}),
        ("/api/v1/inbox?format=prompt", None, {200}),
    ],
    ("POST", "/api/v1/inbox/ack"): lambda m: [
        ("/api/v1/inbox/ack", {"events": [m.event]}, {200, 400, 404}),
    ],
    ("POST", "/api/v1/inbox/woken"): lambda m: [
        ("/api/v1/inbox/woken", {"events": [m.event]}, {200, 404}),
    ],
    ("PUT", "/api/v1/wake"): lambda m: [("/api/v1/wake", {"name": "x"}, {200, 400})],
    ("DELETE", "/api/v1/wake"): lambda m: [("/api/v1/wake?name=x", None, {200, 400, 404})],
    ("GET", "/api/v1/invitations"): lambda m: [("/api/v1/invitations", None, {200, 403})],
    ("POST", "/api/v1/invitations"): lambda m: [
        ("/api/v1/invitations", {"id": "new", "world": "main"}, {400}),
        ("/api/v1/invitations", {"grants": ["agent.walt.>"]}, {403}),
    ],
    ("DELETE", "/api/v1/invitations/{id}"): lambda m: [
        (f"/api/v1/invitations/{m.invitation}", None, NOT_THERE),
    ],
    ("POST", "/api/v1/invitations/redeem"): lambda m: [
        ("/api/v1/invitations/redeem", {"secret": "inv_x", "nonce": "0" * 16, "id": "x"}, {410}),
    ],
    ("POST", "/api/v1/register"): lambda m: [("/api/v1/register", {"id": "new"}, {404})],
    ("GET", "/api/v1/worlds"): lambda m: [("/api/v1/worlds", None, {403})],
    ("POST", "/api/v1/worlds"): lambda m: [("/api/v1/worlds", {"id": "third"}, {403})],
    ("GET", "/api/v1/me"): lambda m: [("/api/v1/me", None, {200})],
    ("GET", "/api/v1/presence"): lambda m: [("/api/v1/presence", None, {200})],
    ("GET", "/api/v1/blocks"): lambda m: [("/api/v1/blocks", None, {200})],
    ("PUT", "/api/v1/blocks/{account}"): lambda m: [("/api/v1/blocks/walt", None, {404})],
    ("DELETE", "/api/v1/blocks/{account}"): lambda m: [("/api/v1/blocks/walt", None, {200})],
    ("GET", "/metrics"): lambda m: [("/metrics", None, {403})],
    ("GET", "/api/v1/rooms"): lambda m: [("/api/v1/rooms?limit=1000", None, {200})],
    ("POST", "/api/v1/rooms"): lambda m: [
        ("/api/v1/rooms", {"room": "new", "world": "main"}, {400}),
        ("/api/v1/rooms", {"room": "our-own"}, {201}),
    ],
    ("GET", "/api/v1/rooms/{id}"): lambda m: [("/api/v1/rooms/walled", None, {404})],
    ("PATCH", "/api/v1/rooms/{id}"): lambda m: [
        ("/api/v1/rooms/walled", {"topic": "theirs"}, {404}),
    ],
    ("POST", "/api/v1/rooms/{id}/leave"): lambda m: [
        ("/api/v1/rooms/walled/leave", {"account": "greta"}, NOT_THERE),
    ],
    ("POST", "/api/v1/rooms/{id}/invite"): lambda m: [
        ("/api/v1/rooms/walled/invite", {"agent": "walt"}, {404}),
        ("/api/v1/rooms/our-own/invite", {"agent": "walt"}, {404}),
    ],
    ("GET", "/api/v1/rooms/{id}/members"): lambda m: [
        ("/api/v1/rooms/walled/members", None, {404}),
        ("/api/v1/rooms/global/members", None, {200}),
        ("/api/v1/rooms/dm.greta.olga/members", None, {200, 403}),
    ],
    ("GET", "/api/v1/rooms/{id}/history"): lambda m: [
        (f"/api/v1/rooms/{room}/history?{how}", None, {200, 403, 404})
        for room in ("global", "walled", "room.team", "dm.greta.olga")
        for how in ("", "after=0", "before=9")
    ],
    ("POST", "/api/v1/messages"): lambda m: [
        (
            "/api/v1/messages",
            {"to_type": "dm", "to_id": "walt", "payload": {"text": "x"}},
            NOT_THERE,
        ),
        ("/api/v1/messages", {"payload": {"text": "x"}, "world": "main"}, {400}),
    ],
    ("DELETE", "/api/v1/messages/{id}"): lambda m: [
        (f"/api/v1/messages/{m.said}", None, {404}),
    ],
    ("POST", "/api/v1/typing"): lambda m: [
        ("/api/v1/typing", {"is_typing": True, "to_type": "dm", "to_id": "walt"}, NOT_THERE),
    ],
    ("POST", "/api/v1/handles"): lambda m: [
        ("/api/v1/handles", {"agent_id": "walter", "handle": "theirs"}, {201, 403}),
    ],
    ("GET", "/api/v1/tasks"): lambda m: [("/api/v1/tasks?limit=200", None, {200})],
    ("POST", "/api/v1/tasks"): lambda m: [
        ("/api/v1/tasks", {"to": "walt", "command": "x"}, NOT_THERE),
    ],
    ("POST", "/api/v1/tasks/take"): lambda m: [("/api/v1/tasks/take", {}, {200})],
    ("GET", "/api/v1/tasks/{id}"): lambda m: [(f"/api/v1/tasks/{m.task}", None, {404})],
    ("POST", "/api/v1/tasks/{id}/update"): lambda m: [
        (f"/api/v1/tasks/{m.task}/update", {"fence": 1, "status": "accepted"}, {404}),
    ],
    ("POST", "/api/v1/tasks/{id}/result"): lambda m: [
        (f"/api/v1/tasks/{m.task}/result", {"fence": 1, "status": "completed"}, {404}),
    ],
    ("POST", "/api/v1/tasks/{id}/cancel"): lambda m: [
        (f"/api/v1/tasks/{m.task}/cancel", {}, {404}),
    ],
    ("POST", "/api/v1/tasks/{id}/approve"): lambda m: [
        (f"/api/v1/tasks/{m.task}/approve", {"digest": "x"}, NOT_THERE),
    ],
    ("GET", "/api/v1/logs"): lambda m: [
        ("/api/v1/logs?kind=server", None, {403}),
        ("/api/v1/logs?kind=tasks", None, {200, 403}),
        ("/api/v1/logs?kind=audit", None, {200, 403, 404}),
    ],
    ("GET", "/api/v1/settings"): lambda m: [("/api/v1/settings", None, {200, 403})],
    ("PATCH", "/api/v1/settings"): lambda m: [
        ("/api/v1/settings", {"command_denylist": ["theirs"]}, {200, 403}),
    ],
    ("GET", "/api/settings"): lambda m: [("/api/settings", None, {200, 403})],
    ("POST", "/api/settings"): lambda m: [
        ("/api/settings", {"auto_create": False}, {200, 403}),
        ("/api/settings", {"auto_create": True}, {200, 403}),
    ],
    ("POST", "/api/v1/rooms/{id}/join"): lambda m: [("/api/v1/rooms/walled/join", {}, {200})],
    **{
        # Open to the holder of a key that no account has, and to none of these at all.
        ("POST", f"/api/{method}"): about_walt(f"/api/{method}", 404)
        for method in (
            "batch broadcast subscribe unsubscribe disconnect refresh presence presence_stats"
            " history history_remove channels info rpc"
        ).split()
    },
    **{
        # Always answered with 200, and without the secret with the same refusal.
        ("POST", f"/proxy/{what}"): about_walt(f"/proxy/{what}", 200)
        for what in ("subscribe", "publish", "connect", "refresh")
    },
    **{
        (method, "/socket.io/"): lambda m: [
            (f"/socket.io/?EIO=4&transport=polling&sid={m.secret}", "2", {400}),
        ]
        for method in ("GET", "POST")
    },
    ("POST", "/emulation"): lambda m: [
        ("/emulation", {"session": "x", "node": "y", "data": "{}"}, {404}),
    ],
    ("POST", "/auth/init"): lambda m: [
        ("/auth/init", {"username": "walt"}, {404}),
        ("/auth/init", {"username": "walt", "key_name": "main"}, {404}),
    ],
    ("POST", "/auth/agent/init"): lambda m: [("/auth/agent/init", {"username": "walt"}, {404})],
    ("POST", "/auth/verify"): lambda m: [("/auth/verify", {"username": "walt"}, {400})],
    ("POST", "/auth/agent/verify"): lambda m: [
        ("/auth/agent/verify", {"username": "walt", "nonce": "n", "signature": "s"}, {400}),
    ],
    ("POST", "/auth/dev-register"): lambda m: [("/auth/dev-register", {"username": "new"}, {404})],
    ("POST", "/auth/revoke"): lambda m: [],
    ("POST", "/api/v1/presence"): lambda m: [
        ("/api/v1/presence", {"status": "idle", "text": "x"}, {200, 409}),
    ],
    ("POST", "/api/v1/enrol"): lambda m: [
        ("/api/v1/enrol", {"secret": "main:wrong", "agent_id": "walt"}, {401}),
    ],
    ("GET", "/api/v1/fleet"): lambda m: [("/api/v1/fleet", None, {200})],
    ("POST", "/api/v1/fleet/report"): lambda m: [
        ("/api/v1/fleet/report", {"capabilities": ["x"], "specs": {}}, {200}),
    ],
    ("GET", "/api/v1/fleet/{id}"): lambda m: [
        ("/api/v1/fleet/walt", None, {404}),
        ("/api/v1/fleet/olga", None, {200, 404}),
    ],
    ("POST", "/api/auth/token"): lambda m: [("/api/auth/token", {"secret": "main:wrong"}, {401})],
    ("POST", "/api/auth/verify"): lambda m: [("/api/auth/verify", {}, {200})],
    ("POST", "/api/auth/revoke"): lambda m: [
        ("/api/auth/revoke", {"token": "claw_of-walt"}, {401}),
    ],
    ("POST", "/api/auth/logout"): lambda m: [],
    ("GET", "/auth/keys"): lambda m: [("/auth/keys", None, {200})],
    ("POST", "/auth/keys"): lambda m: [
        ("/auth/keys", {"public_key": "ssh-ed25519 AAAA", "key_name": "k"}, {403}),
    ],
    ("DELETE", "/auth/keys"): lambda m: [("/auth/keys?key_name=main", None, {404})],
    ("POST", "/api/publish"): lambda m: [
        ("/api/publish", {"channel": "agent.walt.inbox", "payload": "theirs"}, NOT_THERE),
        ("/api/publish", {"channel": "agent.olga.diary", "payload": "theirs"}, {200, 403}),
    ],
    ("POST", "/api/lock"): lambda m: [("/api/lock", {"channel": "agent.walt.diary"}, {403})],
    ("POST", "/api/unlock"): lambda m: [
        ("/api/unlock", {"channel": "agent.walt.diary"}, {403}),
        ("/api/unlock", {"channel": "agent.olga.diary"}, {200, 403}),
    ],
    ("POST", "/api/grant"): lambda m: [
        ("/api/grant", {"target": "walt", "topic": "diary"}, {403, 404}),
        ("/api/grant", {"target": "greta", "channel": "agent.olga.diary"}, {200, 403}),
    ],
    ("POST", "/api/revoke"): lambda m: [
        ("/api/revoke", {"target": "walt", "topic": "diary"}, {403, 404}),
        ("/api/revoke", {"target": "greta", "channel": "agent.olga.diary"}, {200, 403}),
    ],
    ("POST", "/api/request"): lambda m: [
        ("/api/request", {"channel": "agent.walt.diary"}, {404}),
        ("/api/request", {"channel": "agent.olga.diary"}, {200, 400}),
    ],
    ("GET", "/api/locks/{agent}"): lambda m: [
        ("/api/locks/walt", None, {403}),
        ("/api/locks/olga", None, {200, 403}),
    ],
    ("POST", "/api/advertise"): lambda m: [
        ("/api/advertise", {"channel": "agent.walt.diary"}, {403}),
        ("/api/advertise", {"channel": "agent.olga.news", "description": "x"}, {200, 403}),
    ],
    ("DELETE", "/api/advertise"): lambda m: [
        ("/api/advertise", {"channel": "agent.walt.diary"}, {403}),
        ("/api/advertise", {"channel": "agent.olga.notes"}, {200, 403}),
    ],
    ("GET", "/api/advertise/search"): lambda m: [
        (f"/api/advertise/search?q={text}", None, {200}) for text in ("agent", "own", "notes")
    ],
    ("GET", "/api/advertise/list"): lambda m: [("/api/advertise/list", None, {200})],
    ("GET", "/api/advertise/{agent}"): lambda m: [("/api/advertise/olga", None, {200})],
    ("GET", "/api/advertise/{agent}/{topic}"): lambda m: [
        ("/api/advertise/olga/notes", None, {404}),
    ],
    ("GET", "/api/profile/{agent}"): lambda m: [("/api/profile/olga", None, {200})],
    ("GET", "/agents"): lambda m: [("/agents", None, {200})],
}

ABOUT_THE_HUB = {
    "/oauth/token", "/.well-known/oauth-authorization-server", "/openapi.json", "/asyncapi.json",
    "/", "/docs", "/skill.md", "/llms.txt", "/healthz", "/readyz", "/health", "/version", "/join",
    "/api/v1/instructions",
}  # fmt: skip
"""Say nothing of any world, or only of the caller."""

STREAMS = {
    "/api/v1/events/stream", "/sub/{channel}", "/connection/http_stream", "/connection/sse",
    "/connection/uni_http_stream", "/connection/uni_sse",
}  # fmt: skip
"""Have tests of their own below, as has the WebSocket."""


def test_every_route_is_asked() -> None:
    there = {(method, path) for path, methods in ROUTES.items() for method in methods}
    there |= {(method, path) for path, method in HOT.items()}
    missing = {one for one in there if one[1] not in ABOUT_THE_HUB | STREAMS} - ASKED.keys()
    assert not missing, "say in ASKED what another world asks of these"


async def state(world: World) -> str:
    """What could have been changed in main."""
    world.hub.presence.tick()
    paths = ("/grants", "/invitations", "/tokens", "/settings", "/tasks", "/rooms")
    parts = [await world.does("admin", "GET", path) for path in paths]
    for who, path in (("olga", "/blocks"), ("olga", "/consumers"), ("walt", "/me")):
        parts.append(await world.does(who, "GET", path))
    listed = await world.does("admin", "GET", "/accounts?limit=1000")
    parts.append([(a["id"], a["handle"], a["role"]) for a in listed["accounts"]])
    for part in parts:
        if isinstance(part, dict):
            # Both are of the whole log, as every seq is.
            part.pop("cursor", None)
            for consumer in part.get("consumers", ()):
                del consumer["lag"]
    return "\n".join(json.dumps(part) for part in parts)


@pytest.mark.parametrize("who", STRANGERS)
async def test_no_route_gives_or_changes_anything_of_another_world(main: Main, who: str) -> None:
    before = await state(main.world)
    client = await main.world.http(who)
    for (method, _), asks in ASKED.items():
        for path, body, right in asks(main):
            if "/export" in path:
                continue
            answer = await client.ask(method, path, body)
            assert answer.status_code in right, f"{method} {path}: {answer.text}"
            asked = f"{path} {body}"
            names = [name for name in ONLY_MAIN if name not in asked]
            found = [name for name in (SECRET, *names) if name in answer.text]
            assert not found, f"{method} {path} tells {found}: {answer.text[:500]}"
    assert await state(main.world) == before
    # What was fetched in main is still there to be acknowledged.
    acked = await main.world.does(
        "olga", "POST", f"/consumers/{main.consumer}/ack", {"deliveries": [main.delivery]}
    )
    assert acked["acked"] == 1
    inbox = await main.world.does("olga", "GET", "/inbox")
    assert SECRET in json.dumps(inbox)


@pytest.mark.parametrize("who", STRANGERS)
async def test_an_export_holds_ones_own_world(main: Main, who: str) -> None:
    client = await main.world.http(who)
    await main.world.publish("olga@other", "public.news", "theirs")
    text = await client.stream("/api/v1/export", {}, None)
    assert SECRET not in text and "walt" not in text


@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("path", ["/sub/public.news", "/api/v1/events/stream"])
async def test_a_stream_holds_ones_own_world(main: Main, who: str, path: str) -> None:
    client = await main.world.http(who)
    await main.world.publish("olga@other", "public.news", "theirs")
    params = {"since": "all"} | (
        {"channels": "public.news,agent.olga.>,>"} if "api" in path else {}
    )
    text = await client.stream(path, params, '"theirs"')
    assert '"theirs"' in text and SECRET not in text


@pytest.mark.parametrize("who", STRANGERS)
async def test_a_centrifugo_stream_holds_ones_own_world(main: Main, who: str) -> None:
    client = await main.world.http(who)
    await main.world.publish("olga@other", "public.news", "theirs")
    all_of_it = {"recover": True, "offset": 0, "epoch": ""}
    asked = {"token": main.world.tokens[who], "subs": {"public.news": all_of_it}}
    text = await client.stream("/connection/uni_sse", {"cf_connect": json.dumps(asked)}, "theirs")
    assert '"theirs"' in text and SECRET not in text
    command = {"id": 1, "connect": {"token": main.world.tokens[who]}}
    history = {"id": 2, "history": {"channel": "public.news", "limit": 100}}
    presence = {"id": 3, "presence": {"channel": "public.news"}}
    asked_also = "\n".join(json.dumps(one) for one in (command, history, presence))
    text = await client.stream("/connection/sse", {"cf_connect": asked_also}, '"id":3')
    assert '"theirs"' in text and SECRET not in text


@pytest.mark.parametrize("who", STRANGERS)
async def test_the_websocket_holds_ones_own_world(main: Main, who: str) -> None:
    world = main.world
    socket = await world.socket(who)
    for channels in ([">"], ["agent.olga.>"], ["public.news"], ["room.*"], ["dm.greta.olga"]):
        await socket.ask("subscribe", channels=channels, since="all")
    for channel in ("public.news", "agent.olga.inbox", "room.team", "dm.greta.olga"):
        await world.says(channel, f"{SECRET}, live")
    refused = await socket.ask("publish", channel="agent.walt.inbox", data="theirs")
    assert refused["type"] == "error"
    refused = await socket.ask("ack", consumer=main.consumer, deliveries=[main.delivery])
    assert refused["type"] == "error" and refused["error"]["code"] == "not_found"
    ours = await world.socket("olga")
    await ours.ask("subscribe", channels=["public.>"], since="all")
    stored = await socket.ask("publish", channel="public.news", data="theirs")
    assert stored["type"] == "ok"
    for one in (socket, ours):
        await one.rest()
    assert SECRET not in json.dumps(socket.frames)
    assert "theirs" not in json.dumps(ours.frames)


async def test_without_a_token_nothing_of_another_world_is_read(main: Main) -> None:
    world = main.world
    await world.publish("olga@other", "public.news", "theirs")
    anyone = await world.http("anyone")
    for path in ("/api/v1/channels/public.news/events", "/api/v1/me", "/metrics"):
        answer = await anyone.ask("GET", path)
        assert answer.status_code == 200
        assert "theirs" not in answer.text and "other" not in answer.text
    socket = await world.socket("anyone")
    await socket.ask("subscribe", channels=["public.news"], since="all")
    await socket.rest()
    assert "theirs" not in json.dumps(socket.frames) and SECRET in json.dumps(socket.frames)


async def test_metrics_name_no_consumer_of_another_world(main: Main) -> None:
    world = main.world
    consumer = {"name": "c", "channels": ["public.news"]}
    await world.does("olga@other", "POST", "/consumers", consumer)
    for who, sees in (("admin", True), ("max", False), ("wanda", False), ("anyone", False)):
        text = (await (await world.http(who)).ask("GET", "/metrics")).text
        assert ("other/olga/c" in text) is sees, who
        assert "main/olga/mine-alone" in text


async def test_equal_keys_and_answers_of_two_worlds_do_not_meet(main: Main) -> None:
    world = main.world
    event = {"data": "x", "dedupe_key": "k", "correlation_id": "corr-1"}
    first = await world.does("olga", "POST", "/channels/public.news/events", event)
    second = await world.does("olga@other", "POST", "/channels/public.news/events", event)
    assert not second["deduped"] and first["id"] != second["id"]
    # An answer from another world, by the same id and correlation, ends no expectation.
    asked = await world.does(
        "greta", "POST", "/channels/agent.olga.inbox/events",
        {"data": "q", "correlation_id": "q-1", "expect": {"reply_within_s": 3600}},
    )  # fmt: skip
    await world.does(
        "olga@other", "POST", "/channels/agent.greta.inbox/events",
        {"data": "a", "correlation_id": "q-1", "causation_id": asked["id"]},
    )  # fmt: skip
    receipt = await world.does("greta", "GET", f"/events/{asked['id']}/receipt")
    assert receipt["acted"] is None, receipt


async def test_a_role_in_one_world_is_none_in_another(main: Main) -> None:
    world = main.world
    await world.does("admin@other", "PATCH", "/accounts/olga", {"role": "master"})
    assert (await world.ask("olga", "POST", "/accounts", {"id": "new"})).status_code == 403
    assert (await world.ask("olga@other", "POST", "/accounts", {"id": "new"})).status_code == 201
    await world.does("admin@other", "DELETE", "/accounts/olga")
    assert (await world.ask("olga@other", "GET", "/me")).status_code == 401
    assert (await world.ask("olga", "GET", "/me")).status_code == 200
