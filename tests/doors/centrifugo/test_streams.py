"""Centrifugo's http_stream and sse with emulation, in JSON and protobuf, over real connections."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.callers import HUB
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import BadRequest
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.streams import parsed
from clawnet.doors.server import ServerSettings
from clawnet.testing.running import running_hub
from tests.doors.centrifugo.streaming import LOBBY, UNLIMITED, Feed, Rig, stream

KINDS = ("http_stream", "sse", "protobuf")
SITE = "https://chat.example"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    server = ServerSettings(port=0, allowed_origins=(SITE,))
    async with (
        running_hub(settings=UNLIMITED, server=server) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        yield Rig(running, client)


# --- what it is for ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_lives_its_whole_life_on_a_stream(rig: Rig, kind: str) -> None:
    async with stream(rig.client, kind, await rig.connect()) as alice:
        result = await alice.connected()
        assert result["client"] and result["session"] and result["node"]
        assert result["ping"] == 25 and result["pong"] is True
        subscribed = (await alice.ask("subscribe", channel=LOBBY))["subscribe"]
        assert subscribed["recoverable"] is True and subscribed["epoch"]
        assert "publish" in await alice.ask("publish", channel=LOBBY, data={"n": 1})
        push = await alice.push()
        assert push["channel"] == LOBBY
        assert push["pub"]["data"]["payload"] == {"n": 1} and push["pub"]["offset"] == 1
        history = (await alice.ask("history", channel=LOBBY, limit=10))["history"]
        assert [one["data"]["payload"] for one in history["publications"]] == [{"n": 1}]
        assert history["offset"] == 1 and history["epoch"] == subscribed["epoch"]
        presence = (await alice.ask("presence", channel=LOBBY))["presence"]["presence"]
        assert [one["user"] for one in presence.values()] == ["alice"]
        assert "unsubscribe" in await alice.ask("unsubscribe", channel=LOBBY)
        await rig.say("unheard")
        assert (await alice.ask("rpc"))["error"]["code"] in (104, 108)
        assert not alice.pushes


@pytest.mark.parametrize("kind", KINDS)
async def test_commands_that_come_with_connect_are_answered_in_order(rig: Rig, kind: str) -> None:
    await rig.say("before")
    commands = [
        await rig.connect(),
        {"id": 2, "subscribe": {"channel": LOBBY}},
        {"id": 3, "history": {"channel": LOBBY, "limit": 1}},
    ]
    async with stream(rig.client, kind, *commands) as alice:
        await alice.connected()
        assert "subscribe" in await alice.feed.next()
        assert "history" in await alice.feed.next()
        await rig.say("after")
        assert (await alice.push())["pub"]["data"]["payload"] == "after"


@pytest.mark.parametrize("kind", KINDS)
async def test_who_comes_back_is_given_what_it_missed(rig: Rig, kind: str) -> None:
    async with stream(rig.client, kind, await rig.connect()) as alice:
        await alice.connected()
        was = (await alice.ask("subscribe", channel=LOBBY))["subscribe"]
    for n in range(3):
        await rig.say(n)
    async with stream(rig.client, kind, await rig.connect()) as alice:
        await alice.connected()
        place = {"recover": True, "offset": was.get("offset", 0), "epoch": was["epoch"]}
        now = (await alice.ask("subscribe", channel=LOBBY, **place))["subscribe"]
        assert now["was_recovering"] is True and now["recovered"] is True
        assert [one["data"]["payload"] for one in now["publications"]] == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
async def test_pings_come_on_schedule_and_want_an_answer(kind: str) -> None:
    # The first ping comes after 12.5 to 25 s, so that each step below brings exactly one.
    settings = CentrifugoSettings(ping_s=25, pong_timeout_s=20)
    async with (
        running_hub(centrifugo=settings) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
        stream(client, kind, await Rig(running, client).connect()) as alice,
    ):
        await alice.connected()
        running.pass_time(25.5)
        assert await alice.feed.next() == {}
        assert (await alice.emulate({})).status_code == 204
        running.pass_time(25.5)
        assert await alice.feed.next() == {}
        running.pass_time(20.5)
        (last,) = await alice.feed.rest()
        assert last["push"]["disconnect"]["code"] == 3012
        assert not running.hub.sessions


async def test_the_status_and_headers_are_centrifugos(rig: Rig) -> None:
    for kind in KINDS:
        async with stream(rig.client, kind, await rig.connect()) as alice:
            await alice.connected()
            headers = alice.feed.response.headers
            assert headers["x-accel-buffering"] == "no"
            assert "no-store" in headers["cache-control"]
            expected = {
                "sse": "text/event-stream; charset=utf-8",
                "http_stream": "application/json",
            }
            assert headers["content-type"] == expected.get(kind, "application/octet-stream")
            if kind == "sse":
                assert alice.feed.head == b"\r\n"


async def test_sse_takes_its_command_by_post_as_well(rig: Rig) -> None:
    body = json.dumps(await rig.connect())
    async with rig.client.stream("POST", "/connection/sse", content=body) as response:
        reply = await Feed(response, "sse").next()
        assert reply["connect"]["session"]


@pytest.mark.parametrize("query", ["?cf_protocol=protobuf", "?format=protobuf"])
async def test_protobuf_may_be_asked_for_in_the_url(rig: Rig, query: str) -> None:
    how = {"headers": {"Content-Type": "text/plain"}}
    async with stream(rig.client, "protobuf", await rig.connect(), query=query, **how) as alice:
        assert (await alice.connected())["session"]


async def test_the_bare_payload_is_shown_to_who_asks(rig: Rig) -> None:
    query = "?envelope=raw&app=is-ignored"
    async with stream(rig.client, "http_stream", await rig.connect(), query=query) as alice:
        await alice.connected()
        await alice.ask("subscribe", channel=LOBBY)
        await rig.say({"n": 1})
        pub = (await alice.push())["pub"]
        assert pub["data"] == {"n": 1} and pub["info"]["user"] == "zoe"


async def test_text_that_would_break_a_frame_is_one_event(rig: Rig) -> None:
    data = {"text": "a\nb\r\n\ndata: forged\u2028", "\n": "\r"}
    for kind in KINDS:
        async with stream(rig.client, kind, await rig.connect()) as alice:
            await alice.connected()
            await alice.ask("subscribe", channel=LOBBY)
            await alice.ask("publish", channel=LOBBY, data=data)
            assert (await alice.push())["pub"]["data"]["payload"] == data


async def test_protobuf_data_that_is_no_json_is_refused_with_107(rig: Rig) -> None:
    async with stream(rig.client, "protobuf", await rig.connect()) as alice:
        await alice.connected()
        request = bytes.fromhex("0a0c7075626c69632e6c6f626279") + b"\x12\x03\xff{x"
        body = b"\x08\x02\x3a" + bytes([len(request)]) + request
        assert (await alice.emulate(data=bytes([len(body)]) + body)).status_code == 204
        reply = await alice.feed.next()
        assert reply["id"] == 2 and reply["error"]["code"] == 107, reply


async def test_without_a_token_an_anonymous_reader_of_loopback_may_listen(rig: Rig) -> None:
    async with stream(rig.client, "sse", {"id": 1, "connect": {}}) as anyone:
        await anyone.connected()
        await anyone.ask("subscribe", channel=LOBBY)
        await rig.say("hi")
        assert (await anyone.push())["pub"]["data"]["payload"] == "hi"
        refused = await anyone.ask("publish", channel=LOBBY, data="x")
        assert refused["error"]["code"] == 103


# --- who may not --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_session_or_node_is_404_and_nothing_happens(rig: Rig, kind: str) -> None:
    async with stream(rig.client, kind, await rig.connect()) as alice:
        await alice.connected()
        publish = {"id": 2, "publish": {"channel": LOBBY, "data": "forged"}}
        session = alice.session
        wrong = session[:-1] + ("0" if session[-1] != "0" else "1")
        for instead in (
            {"session": wrong},
            {"session": ""},
            {"session": session[:8]},
            {"node": "elsewhere"},
            {"node": ""},
        ):
            assert (await alice.emulate(publish, **instead)).status_code == 404, instead
        client_id = rig.door.clients.all()[0].id
        assert (await alice.emulate(publish, session=client_id)).status_code == 404
        history = (await alice.ask("history", channel=LOBBY, limit=1))["history"]
        assert history.get("offset", 0) == 0


async def test_a_session_ends_with_its_stream(rig: Rig) -> None:
    async with stream(rig.client, "http_stream", await rig.connect()) as alice:
        await alice.connected()
        await alice.ask("subscribe", channel=LOBBY)
    await rig.settled(lambda: not rig.hub.sessions and not rig.door.clients.all())
    publish = {"id": 9, "publish": {"channel": LOBBY, "data": "late"}}
    assert (await alice.emulate(publish)).status_code == 404
    assert await rig.say("next") == 1


async def test_knowing_an_account_does_not_give_its_session(rig: Rig) -> None:
    """Bob's own token beside alice's session id changes nothing: the id alone decides, and only
    her client was told it."""
    async with (
        stream(rig.client, "http_stream", await rig.connect("alice")) as alice,
        stream(rig.client, "http_stream", await rig.connect("bob")) as bob,
    ):
        told = await alice.connected()
        assert (await bob.connected())["session"] != told["session"]
        await alice.ask("subscribe", channel=LOBBY)
        presence = await bob.ask("presence", channel=LOBBY)
        assert "presence" in presence and told["session"] not in json.dumps(presence)
        assert told["session"] not in told["client"]
        await bob.ask("publish", channel=LOBBY, data="x")
        assert told["session"] not in json.dumps(await alice.push())
        refused = await bob.ask("publish", channel="agent.alice.notes", data="x")
        assert refused["error"]["code"] == 103


async def test_session_ids_are_long_and_never_alike(rig: Rig) -> None:
    seen = set()
    for _ in range(3):
        async with stream(rig.client, "http_stream", await rig.connect()) as alice:
            seen.add((await alice.connected())["session"])
    assert len(seen) == 3 and min(map(len, seen)) >= 22


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_token_ends_the_stream_for_good(rig: Rig, kind: str) -> None:
    connect = {"id": 1, "connect": {"token": "nonsense"}}
    async with stream(rig.client, kind, connect) as nobody:
        (last,) = await nobody.feed.rest()
    assert last["push"]["disconnect"]["code"] == 3500
    assert not rig.door.clients.all()


async def test_a_token_in_the_url_is_refused_outside_of_cf_connect(rig: Rig) -> None:
    token = await rig.running.token()
    for path in ("/connection/http_stream", "/connection/sse", "/connection/uni_sse"):
        answer = await rig.client.post(f"{path}?token={token}", content="{}")
        assert answer.status_code == 400 and token not in answer.text


async def test_a_token_in_cf_connect_is_in_no_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # httpx writes down what it asks for, and it is the client.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    connect = await rig.connect()
    token = connect["connect"]["token"]
    async with stream(rig.client, "sse", connect) as alice:
        await alice.connected()
        await alice.ask("subscribe", channel=LOBBY)
    bad = f'{{"id":1,"connect":{{"token":"{token}","name":7}}}}'
    answer = await rig.client.get(f"/connection/sse?cf_connect={quote(bad)}")
    assert token not in answer.text
    bad = f'{{"token":"{token}","name":7}}'
    answer = await rig.client.get(f"/connection/uni_sse?cf_connect={quote(bad)}")
    assert answer.status_code == 400
    assert token not in answer.text
    await rig.settled(lambda: not rig.hub.sessions)
    for record in caplog.records:
        assert token not in record.getMessage() and token not in str(record.__dict__)


@pytest.mark.parametrize("path", ["/connection/sse", "/connection/uni_sse"])
async def test_a_page_of_another_site_cannot_connect_by_a_get(rig: Rig, path: str) -> None:
    connect = quote(json.dumps(await rig.connect() if path.endswith("/sse") else {}))
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = await rig.client.get(f"{path}?cf_connect={connect}", headers=headers)
        assert answer.status_code == 403, headers
    headers = {"Origin": SITE}
    async with rig.client.stream("GET", f"{path}?cf_connect={connect}", headers=headers) as good:
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == SITE


@pytest.mark.parametrize("path", ["/connection/http_stream", "/emulation"])
async def test_browsers_of_allowed_sites_alone_are_let_through(rig: Rig, path: str) -> None:
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    good = await rig.client.options(path, headers={"Origin": SITE, **asks})
    assert good.status_code == 200 and good.headers["access-control-allow-origin"] == SITE
    evil = await rig.client.options(path, headers={"Origin": "https://evil.example", **asks})
    assert "access-control-allow-origin" not in evil.headers
    posted = await rig.client.post(path, content="{}", headers={"Origin": "https://evil.example"})
    assert posted.status_code == 403


async def test_a_revoked_token_ends_the_stream(rig: Rig) -> None:
    made = await rig.running.new_token("alice")
    connect = {"id": 1, "connect": {"token": made.token}}
    async with stream(rig.client, "http_stream", connect) as alice:
        await alice.connected()
        await rig.hub.call(RevokeToken(id=made.id), caller=HUB)
        (last,) = await alice.feed.rest()
    assert last["push"]["disconnect"]["code"] == 3500


# --- what is not as it should be --------------------------------------------------------


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
@pytest.mark.parametrize("text", ["{", "[]", "x", '{"id":1}', '{"id":1,"subscribe":{}}'])
async def test_what_is_no_connect_command_is_told_and_ends(rig: Rig, kind: str, text: str) -> None:
    if kind == "sse":
        opening = rig.client.stream("GET", f"/connection/sse?cf_connect={quote(text)}")
    else:
        opening = rig.client.stream("POST", "/connection/http_stream", content=text)
    async with opening as response:
        assert response.status_code == 200
        (last,) = await Feed(response, kind).rest()
    assert last["push"]["disconnect"] == {"code": 3501, "reason": "bad request"}


async def test_an_empty_connect_is_refused(rig: Rig) -> None:
    assert (await rig.client.get("/connection/sse")).status_code == 400
    assert (await rig.client.get("/connection/sse?cf_connect=%ff")).status_code == 400
    many = "&".join(f"p{n}=1" for n in range(40))
    assert (await rig.client.get(f"/connection/sse?{many}")).status_code == 400


@given(st.binary(max_size=80) | st.text("ab=&%+;\xff0fF", max_size=40).map(str.encode))
def test_any_query_string_is_parameters_or_a_bad_request(raw: bytes) -> None:
    try:
        found = parsed(raw)
    except BadRequest:
        return
    assert all(isinstance(one, str) for pair in found.items() for one in pair)


def test_a_query_string_is_read_as_it_was_meant() -> None:
    assert parsed(b"a=1&a=2&cf_connect=%7B%22x%22%3A1%7D%0A{}&b+c=%2B+&&d") == {
        "a": "1", "cf_connect": '{"x":1}\n{}', "b c": "+ ", "d": "",
    }  # fmt: skip
    for name in (b"token", b"TOKEN", b"%74oken", b"access_token", b"api_key"):
        with pytest.raises(BadRequest):
            parsed(b"x=1&" + name + b"=secret")


async def test_head_begins_no_connection(rig: Rig) -> None:
    connect = quote(json.dumps(await rig.connect()))
    for path in ("/connection/sse", "/connection/uni_sse"):
        answer = await rig.client.head(f"{path}?cf_connect={connect}")
        assert answer.status_code == 200
    assert not rig.door.clients.all()


async def test_a_body_that_is_too_large_is_refused(rig: Rig) -> None:
    limit = rig.running.connections.settings.message_max_bytes
    for path in ("/connection/http_stream", "/connection/sse", "/emulation"):
        answer = await rig.client.post(path, content=b" " * (limit + 1))
        assert answer.status_code == 413, path


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"session":1,"node":"","data":""}', b"\xff", b"x" * 100]
)
async def test_what_is_no_emulation_request_is_400(rig: Rig, body: bytes) -> None:
    assert (await rig.client.post("/emulation", content=body)).status_code == 400
    binary = {"Content-Type": "application/octet-stream"}
    answer = await rig.client.post("/emulation", content=b"\x0a\x05", headers=binary)
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", KINDS)
async def test_emulated_bytes_that_are_no_commands_end_the_stream(rig: Rig, kind: str) -> None:
    async with stream(rig.client, kind, await rig.connect()) as alice:
        await alice.connected()
        bad = b"\x05" if kind == "protobuf" else "{"
        assert (await alice.emulate(data=bad)).status_code == 204
        (last,) = await alice.feed.rest()
        assert last["push"]["disconnect"]["code"] == 3501


async def test_a_stream_in_json_may_be_spoken_to_by_a_protobuf_request(rig: Rig) -> None:
    """As in Centrifugo: what is inside is what the stream speaks, in a JSON string."""
    async with stream(rig.client, "http_stream", await rig.connect()) as alice:
        await alice.connected()
        alice.kind = "protobuf"
        inside = json.dumps('{"id":2,"presence_stats":{"channel":"public.lobby"}}').encode()
        assert (await alice.emulate(data=inside)).status_code == 204
        assert (await alice.feed.next())["id"] == 2
        assert (await alice.emulate(data=b"{")).status_code == 400


async def test_a_stream_in_protobuf_is_not_spoken_to_in_json(rig: Rig) -> None:
    async with stream(rig.client, "protobuf", await rig.connect()) as alice:
        await alice.connected()
        alice.kind = "http_stream"
        assert (await alice.emulate({"id": 2, "presence_stats": {}})).status_code == 400
