"""The routes for shells, asked by curl where there is one, and by httpx everywhere."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest

from tests.doors.http.conftest import LOBBY, Api, check_problem, settled

CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="this machine has no curl")


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"hi", "hi"),
        (b'{"a": 1}', {"a": 1}),
        (b"42", 42),
        (b'"quoted"', "quoted"),
        (b"null", None),
        (b"two words\n", "two words"),
        (b"line\r\n", "line"),
        (b"a\nb\n\n", "a\nb\n"),
        (b"{broken", "{broken"),
        ("grüße".encode(), "grüße"),
        (b"a=1&b=2", "a=1&b=2"),
        (b" 7 ", 7),
        (b'say "hi"\\n', 'say "hi"\\n'),
    ],
)
async def test_json_is_json_and_everything_else_is_text(api: Api, body: bytes, data: Any) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await api.client.post(
        "/pub/public.lobby", content=body, headers=await api.bearer() | kind
    )
    assert answer.status_code == 201, answer.text
    assert (await api.client.get(LOBBY)).json()["events"][0]["data"] == data


async def test_type_and_key_are_parameters(api: Api) -> None:
    headers = await api.bearer()
    path = "/pub/public.lobby?type=x.note&key=k1"
    first = await api.client.post(path, content=b"hi", headers=headers)
    again = await api.client.post(path, content=b"hi", headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    other = await api.client.post(path, content=b"ho", headers=headers)
    check_problem(other, 409, "dedupe_conflict")
    both = await api.client.post(path, content=b"hi", headers=headers | {"Idempotency-Key": "k2"})
    check_problem(both, 400, "bad_request")
    event = (await api.client.get(LOBBY)).json()["events"][0]
    assert (event["type"], event["dedupe_key"]) == ("x.note", "k1")


@pytest.mark.parametrize("body", [b"", b"\xff\xfe"])
async def test_what_is_neither_json_nor_text_is_refused(api: Api, body: bytes) -> None:
    answer = await api.client.post("/pub/public.lobby", content=body, headers=await api.bearer())
    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize("query", ["typ=x", "key=", "key=%00", "type=%zz", "key=a&key=b"])
async def test_parameters_that_do_not_fit_are_refused(api: Api, query: str) -> None:
    answer = await api.client.post(
        f"/pub/public.lobby?{query}", content=b"hi", headers=await api.bearer()
    )
    check_problem(answer, 400, "bad_request")


async def curl(*arguments: str) -> asyncio.subprocess.Process:
    assert CURL is not None
    return await asyncio.create_subprocess_exec(
        CURL,
        "--silent",
        "--noproxy",
        "*",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )


@needs_curl
async def test_curl_publishes_with_nothing_but_a_token(api: Api) -> None:
    token = await api.running.token()
    url = f"{api.running.url}/pub/public.lobby"
    process = await curl("-d", "hi", "-H", f"Authorization: Bearer {token}", url)
    async with asyncio.timeout(10):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output)["offset"] == 1
    assert (await api.client.get(LOBBY)).json()["events"][0]["data"] == "hi"


@needs_curl
async def test_curl_follows_a_channel_line_by_line(api: Api) -> None:
    process = await curl("-N", f"{api.running.url}/sub/public.lobby?since=all&count=3")
    assert process.stdout is not None
    await settled(lambda: api.hub.sessions)
    async with asyncio.timeout(10):
        for n in range(3):
            await api.say(n)
            # Each line is there before the next is published: nothing collects them.
            assert json.loads(await process.stdout.readline())["data"] == n
        assert await process.stdout.read() == b""
        assert await process.wait() == 0


@needs_curl
async def test_curl_follows_events(api: Api) -> None:
    process = await curl("-N", f"{api.running.url}/api/v1/events/stream?channels=public.lobby")
    assert process.stdout is not None
    async with asyncio.timeout(10):
        assert await process.stdout.readline() == b"retry: 1000\n"
        await api.say("hi")
        while not (line := await process.stdout.readline()).startswith(b"data: "):
            pass
        assert json.loads(line[6:])["data"] == "hi"
    process.terminate()
    async with asyncio.timeout(10):
        await process.wait()
    await settled(lambda: not api.hub.sessions)
    process._transport.close()  # type: ignore[attr-defined]
