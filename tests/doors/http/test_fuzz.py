"""Whatever is sent, the answer is a documented one: 2xx, or a problem of the error table."""

from __future__ import annotations

import asyncio
import json
import string
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawnet.core.errors import ERRORS
from clawnet.doors.http.app import HOT, ROUTES, build_app
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.running import Running, running_hub

# RFC 6749 says what a refusal of its endpoint looks like.
OAUTH = "/oauth/token"
OAUTH_ERRORS = {"invalid_request", "invalid_client", "unsupported_grant_type", "invalid_scope"}
DOCUMENTED = {error.code: error.status for error in ERRORS}
EXAMPLES = 120


@pytest.fixture(scope="module")
def loop() -> Any:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def hub(loop: asyncio.AbstractEventLoop) -> Any:
    """One hub for all examples; limits on rates are off."""
    limits = LimitSettings(enabled=False)
    context = running_hub(make_app=build_app, settings=HubSettings(limits=limits))
    running = loop.run_until_complete(context.__aenter__())
    token = loop.run_until_complete(running.token("root", role="master"))
    yield running, token
    loop.run_until_complete(context.__aexit__(None, None, None))


def check(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert DOCUMENTED[problem["code"]] == answer.status_code == problem["status"]
    assert answer.status_code < 500, problem
    assert "Traceback" not in answer.text


def ask(hub: tuple[Running, str], loop: asyncio.AbstractEventLoop, raw: bytes) -> tuple[int, bytes]:
    """Send bytes, read one answer; status 0 if the server closed without one."""
    running, token = hub
    raw = raw.replace(b"TOKEN", token.encode()).replace(b"PORT", b"%d" % running.port)

    async def talk() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        try:
            writer.write(raw)
            async with asyncio.timeout(10):
                answer = await reader.read()
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass
        head, _, body = answer.partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else 0), body

    return loop.run_until_complete(talk())


def check_raw(status: int, body: bytes, *, is_oauth: bool = False) -> None:
    if status >= 400:
        problem = json.loads(body)
        if is_oauth and "code" not in problem:
            assert problem["error"] in OAUTH_ERRORS, problem
            assert status in (400, 401), problem
            return
        assert DOCUMENTED[problem["code"]] == status == problem["status"]
        assert status < 500, problem
    else:
        assert status == 0 or 200 <= status < 300


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["all", "public.lobby", "alice", "root", "worker", "master", "x", 10**20]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
members = st.sampled_from(
    "data type dedupe_key correlation_id causation_id events channel id handle role kind account "
    "verbs from_offset name channels since ack_wait_s max_attempts limit wait_s deliveries seq "
    "attempt delay_s scopes expires_in_s".split()
)
objects = st.dictionaries(members | st.text(max_size=6), json_values, max_size=5)
bodies = (
    objects.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    | json_values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    | st.binary(max_size=200)
    | st.text(alphabet='{}[]",:0123456789.eE-\\u \n', max_size=80).map(str.encode)
)
writes = st.sampled_from(
    [
        (method, path)
        for path, methods in ROUTES.items()
        for method in [*methods, *([HOT[path]] if path in HOT else [])]
        if method in ("POST", "PUT", "PATCH")
    ]
)
segments = st.text(alphabet=string.ascii_lowercase + ".-_%0Aa/~", max_size=12) | st.sampled_from(
    ["public.lobby", "agent.root.x", "root", "w", "..", "%2e%2e", "%2F", "evt_1", "%F0%9F%A6%80"]
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(route=writes, member=segments, body=bodies)
def test_any_body_is_answered(
    hub: Any, loop: Any, route: tuple[str, str], member: str, body: bytes
) -> None:
    method, path = route
    for name in ("{channel}", "{name}", "{id}", "{account}"):
        path = path.replace(name, member or "x")
    if path == "/api/v1/consumers/w/fetch" and b"wait_s" in body:
        body = body.replace(b"wait_s", b"limit")
    raw = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nAuthorization: Bearer TOKEN\r\n"
        "Connection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    check_raw(*ask(hub, loop, raw.encode() + body), is_oauth=path == OAUTH)


queries = st.lists(
    st.tuples(
        st.sampled_from(
            "since limit reverse before after pattern channels count account format".split()
        )
        | st.text(max_size=5),
        st.text(max_size=12)
        | st.integers().map(str)
        | st.floats().map(str)
        | st.sampled_from(["all", "10m", "true", "e-5", "public.>", "*", "999999999d"]),
    ),
    max_size=4,
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        ["/api/v1/channels/public.lobby/events", "/api/v1/channels", "/api/v1/accounts",
         "/api/v1/tokens", "/api/v1/grants", "/api/v1/presence", "/metrics", "/api/v1/me"]
    ),
    query=queries,
)  # fmt: skip
def test_any_query_is_answered(hub: Any, loop: Any, path: str, query: Any) -> None:
    async def get() -> httpx.Response:
        running, token = hub
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            return await client.get(
                path, params=query, headers={"Authorization": f"Bearer {token}"}
            )

    check(loop.run_until_complete(get()))


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    target=st.text(alphabet=string.printable.strip() + "é\x00", max_size=60),
    prefix=st.sampled_from(
        ["/", "/api/v1/", "/api/v1/channels/", "/pub/", "/sub/", "/api/v1/events/", "*"]
    ),
)
def test_any_target_is_answered(hub: Any, loop: Any, method: str, target: str, prefix: str) -> None:
    if prefix == "/sub/" or "stream" in target:
        method = "HEAD"  # a stream that is accepted would not end
    raw = (
        f"{method} {prefix}{target} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"
        "Authorization: Bearer TOKEN\r\nConnection: close\r\n\r\n"
    ).encode()
    status, body = ask(hub, loop, raw)
    if method == "HEAD":
        assert status < 500
    else:
        check_raw(status, body)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["Idempotency-Key", "Content-Type", "Last-Event-ID", "Authorization", "X", "Expect"]
            ),
            st.text(alphabet=string.printable.strip() + "é ", max_size=20),
        ),
        max_size=4,
    )
)
def test_any_header_is_answered(hub: Any, loop: Any, headers: list[tuple[str, str]]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    raw = (
        "POST /api/v1/channels/public.fuzz/events HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"
        f"Authorization: Bearer TOKEN\r\n{lines}Connection: close\r\nContent-Length: 10\r\n\r\n"
        '{"data":1}'
    ).encode()
    status, body = ask(hub, loop, raw)
    if body.startswith(b"HTTP/1.1"):  # behind a 100 Continue
        head, _, body = body.partition(b"\r\n\r\n")
        status = int(head.split()[1])
    check_raw(status, body)
