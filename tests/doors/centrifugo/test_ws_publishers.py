"""What subscribers are told of who published: live, in history and in what is recovered."""

import json
from typing import Any

import msgspec
import pytest

from clawnet.core.payloads import DEPTH_MAX
from clawnet.doors.centrifugo.shapes import INFO_KEPT_MAX_BYTES
from clawnet.doors.centrifugo.wire import StreamPosition
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import Socket, foreign, socket

NORA = {"name": "Nora", "of": ["x", {"deep": 1.5}]}


async def said(client: Socket, channel: str, data: Any = 1) -> dict[str, Any]:
    """Publish and hear it; what is told of the publisher."""
    await client.say({"id": 10_000, "publish": {"channel": channel, "data": data}})
    heard = [await client.hear(), await client.hear()]
    (push,) = (one["push"] for one in heard if "push" in one)
    info: dict[str, Any] = push["pub"]["info"]
    return info


async def test_what_a_token_says_of_its_user_stands_in_its_publications(hub: Running) -> None:
    async with socket(hub, foreign(sub="42", info=NORA)) as nora:
        start = await nora.subscribe("chat:i")
        (present,) = (await nora.done(presence={"channel": "chat:i"}))["presence"].values()
        info = await said(nora, "chat:i")
        assert info == present
        assert (info["user"], info["conn_info"]) == ("42", NORA)
        past = await nora.done(history={"channel": "chat:i", "limit": 10})
        assert past["publications"][0]["info"] == info
    async with socket(hub, await hub.token("alice")) as alice:
        found = await alice.subscribe("chat:i", recover=True, offset=0, epoch=start["epoch"])
        assert [pub["info"] for pub in found["publications"]] == [info]


async def test_what_a_subscription_token_says_stands_in_publications_on_its_channel_alone(
    hub: Running,
) -> None:
    def token(seat: int) -> str:
        return foreign(sub="42", channel="chat:i", info={"seat": seat})

    async with socket(hub, foreign(sub="42", info=NORA)) as nora:
        await nora.subscribe("chat:i", token=token(7))
        await nora.subscribe("chat:j")
        info = await said(nora, "chat:i")
        assert (info["conn_info"], info["chan_info"]) == (NORA, {"seat": 7})
        info = await said(nora, "chat:j")
        assert info["conn_info"] == NORA and "chan_info" not in info
        await nora.done(sub_refresh={"channel": "chat:i", "token": token(8)})
        assert (await said(nora, "chat:i"))["chan_info"] == {"seat": 8}


async def test_an_account_of_the_hub_is_told_with_its_handle_and_the_channels_info(
    hub: Running,
) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        token = foreign(sub="alice", channel="chat:i", info={"seat": 1})
        await alice.subscribe("chat:i", token=token)
        info = await said(alice, "chat:i")
        assert info["conn_info"] == {"handle": "alice", "role": "worker"}
        assert info["chan_info"] == {"seat": 1}


async def test_a_refreshed_token_changes_what_is_told_from_then_on(hub: Running) -> None:
    async with socket(hub, foreign(sub="42", info={"name": "old"})) as nora:
        await nora.subscribe("chat:i")
        assert (await said(nora, "chat:i"))["conn_info"] == {"name": "old"}
        await nora.done(refresh={"token": foreign(sub="42", info={"name": "new"})})
        assert (await said(nora, "chat:i"))["conn_info"] == {"name": "new"}
        past = await nora.done(history={"channel": "chat:i", "limit": 10})
        names = [pub["info"]["conn_info"]["name"] for pub in past["publications"]]
        assert names == ["old", "new"]


async def test_two_connections_of_a_user_are_told_apart(hub: Running) -> None:
    async with (
        socket(hub, foreign(sub="42", info={"at": "desk"})) as desk,
        socket(hub, foreign(sub="42", info={"at": "phone"})) as phone,
    ):
        await desk.subscribe("chat:i")
        await phone.subscribe("chat:i")
        one = await said(desk, "chat:i")
        assert (await phone.push())["info"] == one
        other = await said(phone, "chat:i")
        assert [one["conn_info"]["at"], other["conn_info"]["at"]] == ["desk", "phone"]
        assert one["client"] != other["client"]


async def test_info_that_is_too_large_is_shown_to_who_is_there_and_kept_with_no_event(
    hub: Running,
) -> None:
    """Only the server API takes such: a token with it is refused."""
    large = {"text": "x" * INFO_KEPT_MAX_BYTES}
    async with socket(hub, foreign(sub="42", info=NORA)) as nora:
        (client,) = hub.centrifugo.clients.of_user("main", "42")
        client.subscribe(
            "chat:i", info=msgspec.Raw(msgspec.json.encode(large)), since=StreamPosition()
        )
        await nora.push("subscribe")
        (present,) = (await nora.done(presence={"channel": "chat:i"}))["presence"].values()
        assert present["chan_info"] == large
        info = await said(nora, "chat:i")
        assert info["conn_info"] == NORA and "chan_info" not in info


@pytest.mark.parametrize(
    "info", ["x" * INFO_KEPT_MAX_BYTES, json.loads("[" * DEPTH_MAX + "[1]" + "]" * DEPTH_MAX)],
    ids=["large", "deep"],
)  # fmt: skip
async def test_a_token_whose_info_is_too_large_or_too_deep_opens_no_connection(
    hub: Running, info: Any
) -> None:
    async with socket(hub) as client:
        await client.say({"id": 1, "connect": {"token": foreign(sub="42", info=info)}})
        assert (await client.closed())[0] == 3500
