"""The server API: who is let in, what its methods do, and what they refuse."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount, UpdateAccount
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import BadRequest
from clawnet.doors.centrifugo import api
from clawnet.doors.centrifugo.api_methods import ServerApi
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.http.request import api_key
from clawnet.engines import memory
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings
from tests.doors.centrifugo.backend import KEY, NAMESPACES, Backend, serving


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with serving() as made:
        yield made


# --- who is let in ------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "another"},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": KEY[:-1]},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": "apikey"},
        {"X-API-Key": "wrong", "Authorization": f"apikey {KEY}"},
    ],
    ids=range(9),
)
async def test_without_the_key_nothing_is_answered(
    backend: Backend, headers: dict[str, str]
) -> None:
    for path in api.ROUTES:
        answer = await backend.http.post(path, json={}, headers=headers)
        assert answer.status_code == 401, answer.text
        answer = await backend.http.post(f"{path}?api_key={KEY}", json={}, headers=headers)
        assert answer.status_code == 401, "a key in the address ends up in logs"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"Authorization": f"apikey {KEY}"},
        {"Authorization": f"APIKey  {KEY} "},
    ],
    ids=range(3),
)
async def test_the_key_is_taken_in_both_headers(backend: Backend, headers: dict[str, str]) -> None:
    answer = await backend.http.post("/api/info", json={}, headers=headers)
    assert answer.status_code == 200 and "result" in answer.json()


@pytest.mark.parametrize("key", [None, ""])
async def test_a_hub_without_a_key_has_no_server_api(key: str | None) -> None:
    async with serving(settings=CentrifugoSettings(api_key=key)) as backend:
        for given_key in ("", KEY):
            answer = await backend.http.post("/api/info", json={}, headers={"X-API-Key": given_key})
            assert answer.status_code == 404
            assert "centrifugo.api_key is not set" in answer.text


async def test_a_call_of_claw_events_is_told_from_one_with_a_key() -> None:
    assert api_key({b"x-api-key": b" wrong "}) == b"wrong"
    assert api_key({b"authorization": b"ApiKey k"}) == b"k"
    assert api_key({b"authorization": b"apikey"}) == b""
    assert api_key({b"authorization": b"Bearer claw_x"}) is None
    assert api_key({}) is None


@pytest.mark.parametrize("name", ["centrifugo-api", "Centrifugo-API", "centrifug0-api"])
async def test_nobody_is_given_its_name(backend: Backend, name: str) -> None:
    await backend.token("ada")
    boss = await backend.hub.call(CreateAccount(id="boss", role="master"), caller=HUB)
    master = Caller(account=boss.id, handle=boss.handle, role="master")
    for call in (CreateAccount(id=name.lower()), UpdateAccount(id="ada", handle=name)):
        with pytest.raises(BadRequest) as refused:
            await backend.hub.call(call, caller=master)
        assert "reserved" in refused.value.message
    assert (await backend.publish("chat:1", "hi"))["offset"] == 1


async def test_who_had_its_name_before_it_was_reserved_is_spoken_for_by_nobody(
    backend: Backend,
) -> None:
    await backend.hub.call(CreateAccount(id="centrifugo-api"), caller=HUB)
    said = await backend.publish("chat:1", "hi")
    assert said["error"]["code"] == 108
    read = await backend.hub.storage.read(lambda log: log.channel("main", "chat:1"))
    assert read is None


async def test_a_deleted_account_speaks_no_more(backend: Backend) -> None:
    assert (await backend.publish("chat:1", "hi"))["offset"] == 1
    await backend.hub.call(DeleteAccount(id="centrifugo-api"), caller=HUB)
    assert (await backend.publish("chat:1", "hi"))["error"]["code"] == 108


# --- publications -------------------------------------------------------------


async def test_a_publication_lies_in_the_log_and_reaches_who_follows(backend: Backend) -> None:
    pipe = await backend.client("ada", "chat:1")
    said = await backend.publish("chat:1", {"n": 1}, tags={"a": "b"})
    assert said == {"offset": 1, "epoch": said["epoch"]} and said["epoch"]
    await backend.rig.settle()
    (push,) = pipe.pushed("pub")
    assert push["channel"] == "chat:1"
    assert push["pub"]["data"] == {"n": 1} and push["pub"]["offset"] == 1
    assert push["pub"]["tags"]["a"] == "b"
    assert "info" not in push["pub"], "the backend is no user"


async def test_all_users_of_an_application_do_not_share_one_accounts_rate() -> None:
    limited = HubSettings(
        limits=LimitSettings(publish_per_s=0.001, publish_burst=5),
        channels=ChannelSettings(namespaces=NAMESPACES),
    )
    async with serving(hub_settings=limited) as backend:
        channels = ["chat:1", "public.news"] * 20
        answer = await backend.ask("broadcast", {"channels": channels, "data": 1})
        assert [reply for reply in answer["result"]["responses"] if "error" in reply] == []
        for _ in range(20):
            assert await backend.publish("chat:1", 1, skip_history=True) == {}


async def test_a_publication_by_its_own_path_is_handed_over(backend: Backend) -> None:
    from clawnet.doors.http.request import Request

    answers: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        answers.append(message)

    async def receive() -> Any:
        raise AssertionError("the body was read by who shares the path")

    scope = {"type": "http", "method": "POST", "path": "/api/publish",
             "headers": [(b"x-api-key", KEY.encode())]}  # fmt: skip
    door = backend.http._transport.app  # type: ignore[attr-defined]
    request = Request(door, scope, receive, send)
    answer = await api.publish(request, b'{"channel":"chat:1","data":{}}')
    await answer(receive, send)
    assert answers[0]["status"] == 200
    assert json.loads(answers[1]["body"])["result"]["offset"] == 1


async def test_base64_holds_a_json_value(backend: Backend) -> None:
    encoded = base64.b64encode(b'{"a":\n1}').decode()
    said = await backend.batch({"publish": {"channel": "chat:1", "b64data": encoded}})
    assert said[0]["publish"]["offset"] == 1
    history = await backend.ask("history", {"channel": "chat:1", "limit": -1})
    assert history["result"]["publications"][0]["data"] == {"a": 1}
    for wrong in ("%%%", base64.b64encode(b"\xff\xfe").decode(), "YWJj"):
        (said,) = await backend.batch({"publish": {"channel": "chat:1", "b64data": wrong}})
        assert said["error"]["code"] == 107, wrong


async def test_what_skips_history_is_not_kept(backend: Backend) -> None:
    pipe = await backend.client("ada", "chat:1")
    assert await backend.publish("chat:1", 7, skip_history=True) == {}
    await backend.rig.settle()
    assert [push["pub"]["data"] for push in pipe.pushed("pub")] == [7]
    assert "offset" not in pipe.pushed("pub")[0]["pub"]
    history = await backend.ask("history", {"channel": "chat:1", "limit": 10})
    assert history["result"]["publications"] == [] and history["result"]["offset"] == 0


async def test_the_same_key_publishes_once(backend: Backend) -> None:
    first = await backend.publish("chat:1", 1, idempotency_key="k")
    again = await backend.publish("chat:1", 1, idempotency_key="k")
    other = await backend.publish("chat:1", 2, idempotency_key="k")
    assert first == again and first["offset"] == 1
    assert other["error"]["code"] == 113
    assert (await backend.publish("chat:1", 2, idempotency_key="l"))["offset"] == 2


async def test_a_version_that_is_not_newer_is_skipped(backend: Backend) -> None:
    async def say(version: int, epoch: str = "") -> Any:
        return await backend.publish("chat:1", version, version=version, version_epoch=epoch)

    assert (await say(5))["offset"] == 1
    assert (await say(5))["offset"] == 1
    assert (await say(4))["offset"] == 1
    assert (await say(6))["offset"] == 2
    assert (await say(1, "b"))["offset"] == 3
    assert (await backend.publish("chat:1", 0))["offset"] == 4
    history = await backend.ask("history", {"channel": "chat:1", "limit": -1})
    assert [p["data"] for p in history["result"]["publications"]] == [5, 6, 1, 0]


async def test_versions_are_known_after_a_restart(backend: Backend) -> None:
    await backend.publish("chat:1", "new", version=5)
    backend.door.api = ServerApi(backend.door)
    assert (await backend.publish("chat:1", "old", version=4))["offset"] == 1
    assert (await backend.publish("chat:1", "newer", version=6))["offset"] == 2


async def test_versions_at_once_take_their_turns(backend: Backend) -> None:
    commands = [
        {"publish": {"channel": "chat:1", "data": n % 3, "version": n % 3 + 1}} for n in range(30)
    ]
    replies = await backend.batch(*commands, parallel=True)
    assert all("publish" in reply for reply in replies)
    history = await backend.ask("history", {"channel": "chat:1", "limit": -1})
    data = [p["data"] for p in history["result"]["publications"]]
    assert data == sorted(set(data)) and data[-1] == 2


async def test_a_channel_without_history_tells_no_offset(backend: Backend) -> None:
    assert await backend.publish("bare:1", 1) == {}
    for method in ("history", "history_remove"):
        said = await backend.ask(method, {"channel": "bare:1"})
        assert said["error"]["code"] == 108


async def test_a_broadcast_answers_for_each_channel(backend: Backend) -> None:
    call = {"channels": ["chat:1", "nowhere:1", "room.x", "chat:2", ""], "data": 1}
    answer = await backend.ask("broadcast", call)
    responses = answer["result"]["responses"]
    codes = [response.get("error", {}).get("code") for response in responses]
    assert codes == [None, 102, 103, None, 107]
    assert responses[3]["result"]["offset"] == 1
    assert (await backend.ask("broadcast", {"channels": [], "data": 1}))["error"]["code"] == 107


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("public.news", None),
        ("closed:1", None),
        ("nowhere:1", 102),
        ("agent.ada.plan", 103),
        ("agent.ada.public.feed", 103),
        ("room.team", 103),
        ("dm.ada.bob", 103),
        ("system.grants", 103),
        ("public.", 107),
        ("", 107),
        ("with blank", 107),
        ("x" * 300, 107),
    ],
)
async def test_it_speaks_as_a_worker_on_the_hubs_own_channels(
    backend: Backend, channel: str, code: int | None
) -> None:
    await backend.token("ada")
    await backend.token("bob")
    said = await backend.publish(channel, 1)
    assert said.get("error", {}).get("code") == code, said


async def test_the_event_names_its_account_as_its_sender(backend: Backend) -> None:
    await backend.publish("public.news", 1)
    reader = backend.hub.authenticate(await backend.token("ada"))
    page = await backend.hub.call(ReadHistory(channel="public.news"), caller=reader)
    event = json.loads(page.body)
    assert event["actor"]["id"] == "centrifugo-api" and event["source"] == "agent"


@pytest.mark.parametrize(
    "more",
    [
        {"tags": {str(n): "" for n in range(17)}},
        {"tags": {"": "x"}},
        {"tags": {"x": "y" * 257}},
        {"data": None, "b64data": "!"},
        {"idempotency_key": "k" * 201},
        {"version": 1, "version_epoch": "e" * 201},
        {"data": "x" * 70_000},
    ],
    ids=range(7),
)
async def test_what_is_out_of_bounds_is_refused(backend: Backend, more: dict[str, Any]) -> None:
    (said,) = await backend.batch({"publish": {"channel": "chat:1", "data": 1, **more}})
    assert said["error"]["code"] == 107


# --- connections --------------------------------------------------------------


async def test_a_user_is_subscribed_and_unsubscribed(backend: Backend) -> None:
    pipe = await backend.client("ada")
    call = {"user": "ada", "channel": "closed:1", "data": {"x": 1}}
    assert await backend.ask("subscribe", call) == {"result": {}}
    assert await backend.ask("subscribe", call) == {"result": {}}, "it is there already"
    await backend.publish("closed:1", "hi")
    await backend.rig.settle()
    assert pipe.pushed("subscribe")[0]["subscribe"]["data"] == {"x": 1}
    assert [push["pub"]["data"] for push in pipe.pushed("pub")] == ["hi"]
    gone = {"user": "ada", "channel": "closed:1"}
    assert await backend.ask("unsubscribe", gone) == {"result": {}}
    await backend.publish("closed:1", "unheard")
    await backend.rig.settle()
    assert pipe.pushed("unsubscribe")[0]["unsubscribe"]["code"] == 2000
    assert len(pipe.pushed("pub")) == 1


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ({"presence": {"value": False}, "of_another_release": {"value": 1}}, None),
        ({"presence": None, "join_leave": {}}, None),
        ({"presence": {"value": 1}}, 107),
        ({"presence": True}, 107),
    ],
    ids=range(4),
)
async def test_an_override_is_read_as_that_of_a_token(
    backend: Backend, override: dict[str, Any], code: int | None
) -> None:
    await backend.client("ada")
    call = {"user": "ada", "channel": "chat:1", "override": override}
    said = await backend.ask("subscribe", call)
    assert said.get("error", {}).get("code") == code, said


async def test_nobody_is_subscribed_to_what_it_may_not_read(backend: Backend) -> None:
    pipe = await backend.client("ada")
    await backend.token("bob")
    for channel in ("agent.bob.diary", "agent.bob.inbox", "room.team", "system.grants"):
        said = await backend.ask("subscribe", {"user": "ada", "channel": channel})
        assert said["error"]["code"] == 103, channel
    said = await backend.ask("subscribe", {"user": "ada", "channel": "no:1"})
    assert said["error"]["code"] == 102, said
    await backend.rig.settle()
    assert pipe.pushed("subscribe") == []
    own = await backend.ask("subscribe", {"user": "ada", "channel": "agent.ada.diary"})
    assert own == {"result": {}}


async def test_a_client_is_meant_by_its_id_or_session(backend: Backend) -> None:
    one, two = await backend.client("ada"), await backend.client("ada")
    await backend.ask("subscribe", {"user": "ada", "client": two.client.id, "channel": "chat:1"})
    await backend.ask("subscribe", {"user": "bob", "client": one.client.id, "channel": "chat:1"})
    await backend.rig.settle()
    assert not one.pushed("subscribe") and two.pushed("subscribe")


async def test_a_user_is_disconnected_but_for_a_few(backend: Backend) -> None:
    one, two = await backend.client("ada"), await backend.client("ada")
    other = await backend.client("bob")
    call = {
        "user": "ada",
        "whitelist": [two.client.id],
        "disconnect": {"code": 4000, "reason": "x"},
    }
    assert await backend.ask("disconnect", call) == {"result": {}}
    assert (one.ended_with, two.ended_with, other.ended_with) == ((4000, "x"), None, None)
    assert await backend.ask("disconnect", {"user": "ada"}) == {"result": {}}
    assert two.ended_with == (3503, "force disconnect")
    for wrong in ({"code": 200, "reason": "x"}, {"code": 4000, "reason": "é" * 100}):
        said = await backend.http.post(
            "/api/disconnect", json={"user": "bob", "disconnect": wrong},
            headers={"X-API-Key": KEY},
        )  # fmt: skip
        assert said.status_code == 400 or said.json()["error"]["code"] == 107
    assert other.ended_with is None


async def test_a_connections_end_is_set(backend: Backend) -> None:
    pipe = await backend.client("ada")
    soon = backend.hub.retention.now_ms() // 1000 + 100
    assert await backend.ask("refresh", {"user": "ada", "expire_at": soon}) == {"result": {}}
    (push,) = pipe.pushed("refresh")
    assert push["refresh"]["expires"] is True and 90 <= push["refresh"]["ttl"] <= 100
    assert (await backend.ask("refresh", {"user": "ada", "info": {}}))["error"]["code"] == 108
    assert await backend.ask("refresh", {"user": "ada", "expired": True}) == {"result": {}}
    assert pipe.ended_with == (3005, "connection expired")


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "disconnect", "refresh"])
async def test_whoever_is_meant_must_be_named(backend: Backend, method: str) -> None:
    said = await backend.ask(method, {"channel": "chat:1"})
    assert said["error"]["code"] == 107
    there = {"channel": "chat:1", "user": "nobody-here"}
    assert await backend.ask(method, there) == {"result": {}}


async def test_another_worlds_connections_are_out_of_reach(backend: Backend) -> None:
    theirs = await backend.client("", "public.news", token=await backend.other_world())
    assert theirs.client.world == "other"
    for call in (
        {"client": theirs.client.id},
        {"session": theirs.client.session_id or "none"},
        {"user": theirs.client.user},
    ):
        assert await backend.ask("disconnect", call) == {"result": {}}
        assert await backend.ask("unsubscribe", {**call, "channel": "public.news"}) == {
            "result": {}
        }
    await backend.publish("public.news", "ours")
    await backend.rig.settle()
    assert theirs.ended_with is None and len(theirs.frames) == 2
    for method in ("presence", "channels"):
        said = await backend.ask(method, {"channel": "public.news"})
        assert list(said["result"].values()) == [{}]


# --- what there is ------------------------------------------------------------


async def test_presence_shows_who_follows(backend: Backend) -> None:
    await backend.client("ada", "chat:1")
    await backend.client("ada", "chat:1")
    pipe = await backend.client("bob", "chat:1", "public.news")
    presence = (await backend.ask("presence", {"channel": "chat:1"}))["result"]["presence"]
    assert presence[pipe.client.id]["user"] == "bob" and len(presence) == 3
    stats = await backend.ask("presence_stats", {"channel": "chat:1"})
    assert stats == {"result": {"num_clients": 3, "num_users": 2}}
    channels = (await backend.ask("channels"))["result"]["channels"]
    assert channels == {"chat:1": {"num_clients": 3}, "public.news": {"num_clients": 1}}
    assert (await backend.ask("channels", {"pattern": "pub*"}))["result"]["channels"] == {
        "public.news": {"num_clients": 1}
    }
    (node,) = (await backend.ask("info"))["result"]["nodes"]
    assert (node["num_clients"], node["num_users"]) == (3, 2)
    assert (node["num_subs"], node["num_channels"]) == (4, 2)
    for method in ("presence", "presence_stats"):
        assert (await backend.ask(method, {"channel": "bare:1"}))["error"]["code"] == 108
        assert (await backend.ask(method, {"channel": "room.x"}))["error"]["code"] == 103


async def test_history_is_paged_both_ways(backend: Backend) -> None:
    for n in range(1, 6):
        await backend.publish("chat:1", n)

    async def page(**how: Any) -> Any:
        return (await backend.ask("history", {"channel": "chat:1", **how}))["result"]

    place = await page()
    assert place["publications"] == [] and place["offset"] == 5 and place["epoch"]
    assert [p["data"] for p in (await page(limit=2))["publications"]] == [1, 2]
    since = {"offset": 2, "epoch": place["epoch"]}
    assert [p["offset"] for p in (await page(limit=2, since=since))["publications"]] == [3, 4]
    assert [p["data"] for p in (await page(limit=2, reverse=True))["publications"]] == [5, 4]
    back = await page(limit=-1, since=since, reverse=True)
    assert [p["data"] for p in back["publications"]] == [1]
    wrong = {"channel": "chat:1", "limit": 1, "since": {"offset": 1, "epoch": "x"}}
    assert (await backend.ask("history", wrong))["error"]["code"] == 112
    assert (await backend.ask("history", {"channel": "room.x"}))["error"]["code"] == 103


async def test_removed_history_is_gone_and_its_readers_are_told(backend: Backend) -> None:
    from clawnet.core.cursors import AfterOffset

    for n in range(3):
        await backend.publish("chat:1", n)
        await backend.publish("chat:2", n)
    assert await backend.ask("history_remove", {"channel": "chat:1"}) == {"result": {}}
    result = (await backend.ask("history", {"channel": "chat:1", "limit": -1}))["result"]
    assert result["publications"] == [] and result["offset"] == 3
    assert (await backend.publish("chat:1", "next"))["offset"] == 4
    other = (await backend.ask("history", {"channel": "chat:2", "limit": -1}))["result"]
    assert len(other["publications"]) == 3
    caller = await backend.door.api._speaker()
    read = ReadHistory(channel="chat:1", since=AfterOffset(1))
    page = await backend.hub.call(read, caller=caller)
    assert [(gap.first, gap.last) for gap in page.gaps] == [(2, 3)]
    assert (await backend.ask("history_remove", {"channel": "public.news"}))["error"]["code"] == 103
    assert await backend.ask("history_remove", {"channel": "chat:9"}) == {"result": {}}


async def test_who_is_to_recover_what_was_removed_begins_with_what_comes(
    backend: Backend,
) -> None:
    for n in range(5):
        await backend.publish("chat:1", n)
    await backend.ask("history_remove", {"channel": "chat:1"})
    await backend.publish("chat:1", "held")
    call = {"user": "ada", "channel": "chat:1", "override": {"force_recovery": {"value": True}}}
    for offset, expected in ((5, ["held"]), (4, []), (0, [])):
        pipe = await backend.client("ada")
        since = {"offset": offset, "epoch": ""}
        assert await backend.ask("subscribe", {**call, "recover_since": since}) == {"result": {}}
        await backend.rig.settle()
        assert pipe.ended_with is None, "a gap would be told of, and end the connection"
        assert [push["pub"]["data"] for push in pipe.pushed("pub")] == expected
        (begun,) = pipe.pushed("subscribe")
        assert begun["subscribe"]["offset"] == (5 if expected else 6)
        pipe.client.lost()


async def test_what_was_published_while_a_removal_waited_for_its_turn_stays(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several pieces, and before each of them something else is committed."""
    monkeypatch.setattr(memory, "TRIM_MAX_EVENTS", 2)
    for n in range(5):
        await backend.publish("chat:1", n)
    committer, later = backend.hub.committer, []
    run = committer.run

    async def behind_others(work: Any) -> Any:
        # As where a thread commits: what was handed to it before comes first.
        later.append((await backend.publish("chat:1", "later"))["offset"])
        return await run(work)

    monkeypatch.setattr(committer, "run", behind_others)
    assert await backend.ask("history_remove", {"channel": "chat:1"}) == {"result": {}}
    result = (await backend.ask("history", {"channel": "chat:1", "limit": -1}))["result"]
    assert [one["offset"] for one in result["publications"]] == later == [6, 7, 8, 9]


async def test_rpc_asks_what_is_registered(backend: Backend) -> None:
    from msgspec import Raw

    async def double(caller: Any, params: Raw) -> Raw:
        assert caller.account == "centrifugo-api"
        return Raw(b"[%b,%b]" % (bytes(params), bytes(params)))

    async def refuse(caller: Any, params: Raw) -> Raw:
        raise BadRequest("Not so.")

    async def fail(caller: Any, params: Raw) -> Raw:
        raise ValueError("a secret of the hub")

    backend.door.rpc.update(double=double, refuse=refuse, fail=fail)
    said = await backend.ask("rpc", {"method": "double", "params": 2})
    assert said == {"result": {"data": [2, 2]}}
    assert (await backend.ask("rpc", {"method": "refuse"}))["error"]["code"] == 107
    failed = await backend.ask("rpc", {"method": "fail"})
    assert failed["error"]["code"] == 100 and "secret" not in json.dumps(failed)
    assert (await backend.ask("rpc", {"method": "none"}))["error"]["code"] == 108


# --- batches and errors -------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_is_answered_in_its_order(backend: Backend, parallel: bool) -> None:
    replies = await backend.batch(
        {"publish": {"channel": "chat:1", "data": 1}},
        {"publish": {"channel": "nowhere:1", "data": 1}},
        {},
        {"info": {}, "channels": {}},
        {"broadcast": {"channels": ["chat:2"], "data": 1}},
        {"history": {"channel": "chat:1", "limit": 5}},
        parallel=parallel,
    )
    assert [next(iter(reply)) for reply in replies] == [
        "publish", "error", "error", "error", "broadcast", "history",
    ]  # fmt: skip
    if not parallel:
        assert len(replies[5]["history"]["publications"]) == 1


async def test_a_batch_is_bounded(backend: Backend) -> None:
    broadcast = {"broadcast": {"channels": ["chat:1"] * 600, "data": 1}}
    answer = await backend.ask("batch", {"commands": [broadcast, broadcast]})
    assert answer["error"]["code"] == 107
    bodies: list[Any] = [{"commands": [{}] * 1_001}, {"commands": [{"x": 1}] * 1_001}]
    for body in bodies:
        answer = await backend.http.post("/api/batch", json=body, headers={"X-API-Key": KEY})
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("history", {"channel": "nowhere:1"}, 404),
        ("history", {"channel": "room.x"}, 403),
        ("history", {"channel": ""}, 400),
        ("history", {"channel": "bare:1"}, 400),
        ("history", {"channel": "chat:1", "since": {"epoch": "x"}}, 416),
        ("rpc", {"method": "x"}, 400),
        ("info", {}, 200),
    ],
)
async def test_errors_are_statuses_for_who_asks_for_them(
    backend: Backend, method: str, body: Any, status: int
) -> None:
    headers = {"X-API-Key": KEY, "X-Centrifugo-Error-Mode": "transport"}
    answer = await backend.http.post(f"/api/{method}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert ("error" in answer.json()) is (status != 200)


@pytest.mark.parametrize("path", ["nosuch", "map_publish", "Info", "x%0d%0a"])
async def test_who_holds_the_key_is_told_what_is_no_method(backend: Backend, path: str) -> None:
    headers = {"X-API-Key": KEY}
    answer = await backend.http.post(f"/api/{path}", json={}, headers=headers)
    assert answer.status_code == 200 and answer.json()["error"]["code"] == 104
    headers["X-Centrifugo-Error-Mode"] = "transport"
    answer = await backend.http.post(f"/api/{path}", json={}, headers=headers)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == 104


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}], ids=range(3))
async def test_nobody_else_is_told_of_methods(backend: Backend, headers: dict[str, str]) -> None:
    answer = await backend.http.post("/api/nosuch", json={}, headers=headers)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/api/v1/nosuch", 404), ("GET", "/api/nosuch", 404), ("POST", "/nosuch", 404),
     ("GET", "/api/info", 405), ("POST", "/api/lock", 401), ("POST", "/api/", 404)],
)  # fmt: skip
async def test_other_paths_are_as_without_the_key(
    backend: Backend, method: str, path: str, status: int
) -> None:
    plain = await backend.http.request(method, path)
    answer = await backend.http.request(method, path, headers={"X-API-Key": KEY})
    assert (answer.status_code, answer.content) == (plain.status_code, plain.content)
    assert answer.status_code == status, answer.text


async def test_the_uptime_is_the_hubs(backend: Backend) -> None:
    backend.rig.clock.advance(100)
    (node,) = (await backend.ask("info"))["result"]["nodes"]
    assert node["uptime"] == 100


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"channel":1}', b"\xff", b'{"limit":1e400}', b"[" * 9_999],
    ids=range(8),
)  # fmt: skip
async def test_what_is_no_request_is_a_bad_request(backend: Backend, body: bytes) -> None:
    answer = await backend.http.post("/api/history", content=body, headers={"X-API-Key": KEY})
    assert answer.status_code == 400


async def test_a_body_of_two_megabytes_is_too_large(backend: Backend) -> None:
    answer = await backend.http.post(
        "/api/batch", content=b" " * 2_000_000, headers={"X-API-Key": KEY}
    )
    assert answer.status_code == 413


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["chat:1", "public.news", "ada", "room.x", "bare:1", "", "*", "chat:#a,b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip
MEMBERS = st.sampled_from(
    "channel channels data b64data tags user client session info since limit reverse pattern"
    " method params expire_at expired whitelist disconnect override version idempotency_key"
    " recover_since commands skip_history".split()
)
BODIES = st.dictionaries(MEMBERS, VALUES, max_size=5) | VALUES
DOCUMENTED = {100, 101, 102, 103, 104, 105, 106, 107, 108, 111, 112, 113}


async def test_any_body_is_answered_as_documented(backend: Backend) -> None:
    """One hub for all: what one body leaves behind must not break the next."""
    await backend.client("ada", "chat:1")
    bodies: list[tuple[str, Any]] = []

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(api.TYPES)), BODIES)
    def collect(method: str, body: Any) -> None:
        bodies.append((method, body))

    collect()
    for method, body in bodies:
        for path, sent in (
            (f"/api/{method}", body),
            ("/api/batch", {"commands": [{method: body}]}),
        ):
            if path == "/api/publish":
                continue
            answer = await backend.http.post(
                path, content=json.dumps(sent).encode(), headers={"X-API-Key": KEY}
            )
            assert answer.status_code in (200, 400), f"{path} {sent!r}: {answer.text}"
            if answer.status_code == 200:
                said = answer.json()
                for reply in said.get("replies", [said]):
                    error = reply.get("error")
                    assert error is None or error["code"] in DOCUMENTED - {100}, f"{sent!r}: {said}"
