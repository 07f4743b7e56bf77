"""The plain caller against a server that misbehaves on purpose."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.client.http import HubHttp
from clawnet.core.errors import PayloadTooLarge, RateLimited, Unauthenticated

Step = Callable[[socket.socket, bytes], None]


def answer(status: int, body: Any, **headers: str) -> Step:
    def step(connection: socket.socket, _: bytes) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(raw)}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)

    return step


def hang_up(connection: socket.socket, _: bytes) -> None:
    """The answer is lost."""


PUBLISHED = {"id": "evt_1", "seq": 1, "offset": 1, "epoch": "e.1", "deduped": False}


@contextmanager
def server(*steps: Step, is_reading: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """Serves one request for each step; gives its address and the requests that came."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    requests: list[bytes] = []

    def serve() -> None:
        for step in steps:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                request = _read(connection) if is_reading else b""
                requests.append(request)
                step(connection, request)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.close()
        thread.join(timeout=10)


def _read(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def sleeper(slept: list[float]) -> Callable[[float], None]:
    return slept.append


def bodies(requests: list[bytes]) -> list[Any]:
    return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in requests]


def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    slept: list[float] = []
    with server(hang_up, answer(200, {**PUBLISHED, "deduped": True})) as (url, requests):
        got = HubHttp(url, "claw_t").publish("public.a", b'{"a": 1.0}', sleep=sleeper(slept))
    assert got["deduped"]
    first, second = bodies(requests)
    assert first == second
    assert first["dedupe_key"]
    assert b'"data":{"a": 1.0}' in requests[0]
    assert b"Authorization: Bearer claw_t" in requests[0]
    assert len(slept) == 1


def test_two_publishes_have_two_keys() -> None:
    with server(answer(201, PUBLISHED), answer(201, PUBLISHED)) as (url, requests):
        hub = HubHttp(url)
        hub.publish("public.a", b"1")
        hub.publish("public.a", b"1")
    first, second = bodies(requests)
    assert first["dedupe_key"] != second["dedupe_key"]


def test_a_refused_connection_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    slept: list[float] = []
    with pytest.raises(HubUnreachable):
        HubHttp(url).publish("public.a", b"1", sleep=sleeper(slept))
    assert slept == []


def test_an_unknown_outcome_names_the_key() -> None:
    now = iter(range(0, 1_000, 4))
    with server(hang_up) as (url, requests), pytest.raises(HubUnreachable) as caught:
        HubHttp(url).publish(
            "public.a", b"1", within_s=4.0, sleep=sleeper([]), now=lambda: float(next(now))
        )
    key = bodies(requests)[0]["dedupe_key"]
    assert caught.value.facts["dedupe_key"] == key
    assert key in caught.value.next


def test_a_hub_that_starts_is_waited_for() -> None:
    slept: list[float] = []
    problem = {"code": "unavailable", "detail": "Starting."}
    steps = (answer(503, problem, retry_after="2"), answer(201, PUBLISHED))
    with server(*steps) as (url, _):
        assert HubHttp(url).publish("public.a", b"1", sleep=sleeper(slept)) == PUBLISHED
    assert slept == [2.0]


def test_a_rate_limit_is_the_callers() -> None:
    problem = {"code": "rate_limited", "detail": "Slower."}
    limited = server(answer(429, problem, retry_after="2"))
    with limited as (url, _), pytest.raises(RateLimited) as caught:
        HubHttp(url).publish("public.a", b"1")
    assert caught.value.retry_after_s == 2.0


def test_a_redirect_is_not_followed() -> None:
    redirecting = server(answer(307, b"", location="http://evil.example/\x1b[2J"))
    expected = pytest.raises(UnexpectedAnswer, match=r"evil\.example")
    with redirecting as (url, requests), expected as caught:
        HubHttp(url, "claw_t").call("GET", "/api/v1/me")
    assert len(requests) == 1
    assert "\x1b" not in caught.value.message


def test_a_body_refused_while_it_is_sent_is_told_as_refused() -> None:
    problem = {"code": "payload_too_large", "detail": "Too large."}
    strict = server(answer(413, problem), is_reading=False)
    with strict as (url, _), pytest.raises((PayloadTooLarge, HubUnreachable)):
        HubHttp(url).call("POST", "/x", raw=b"x" * 5_000_000)


def test_what_is_no_json_is_unexpected() -> None:
    with server(answer(200, b"<html>")) as (url, _), pytest.raises(UnexpectedAnswer):
        HubHttp(url).call("GET", "/")


def test_what_is_no_http_is_unreachable() -> None:
    other = server(lambda connection, _: connection.sendall(b"SSH-2.0-x\r\n"))
    with other as (url, _), pytest.raises(HubUnreachable):
        HubHttp(url).call("GET", "/")


def test_names_are_escaped_in_paths() -> None:
    with server(answer(201, PUBLISHED)) as (url, requests):
        HubHttp(url).publish("a/../b?c#d e", b"1")
    assert requests[0].startswith(b"POST /api/v1/channels/a%2F..%2Fb%3Fc%23d%20e/events HTTP/1.1")


def test_an_invalid_token_is_told() -> None:
    with server(answer(401, b"")) as (url, _), pytest.raises(Unauthenticated):
        HubHttp(url, "claw_t").call("GET", "/api/v1/me")
