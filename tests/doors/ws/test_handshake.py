"""The answer to an upgrade: the same whether the short way or the library gives it."""

import itertools
import re

import pytest

from clawnet.doors.gate import Admitted
from clawnet.doors.protocol import Refusal, Upgrade
from clawnet.doors.ws import handshake

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
USUAL = (
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
)
SAID: dict[bytes, tuple[bytes | None, ...]] = {
    b"upgrade": (None, b"websocket", b"WebSocket", b"h2c", b"websocket, x"),
    b"connection": (None, b"Upgrade", b"keep-alive, upgrade", b"close", b"upgrade,,"),
    b"sec-websocket-key": (None, KEY, b"dGhl", KEY[:-1], b"\xff" * 24, b"=" + KEY),
    b"sec-websocket-version": (None, b"13", b"8", b"13, 8"),
}


def upgrade(
    headers: list[tuple[bytes, bytes]], *, method: str = "GET", http_version: str = "1.1"
) -> Upgrade:
    return Upgrade(
        path="/",
        query="",
        method=method,
        http_version=http_version,
        headers=headers,
        admitted=Admitted(client="127.0.0.1", is_local=True),
    )


def both(
    asked: Upgrade, monkeypatch: pytest.MonkeyPatch, *, subprotocol: str | None = None
) -> tuple[bytes | Refusal, bytes | Refusal]:
    """What is answered, and what the library alone would answer; without the time."""
    ours = handshake.accept(asked, subprotocol=subprotocol)
    with monkeypatch.context() as patch:
        patch.setattr(handshake, "_key_of_usual", lambda _: None)
        theirs = handshake.accept(asked, subprotocol=subprotocol)
    return _timeless(ours), _timeless(theirs)


def _timeless(answer: bytes | Refusal) -> bytes | Refusal:
    if isinstance(answer, Refusal):
        return answer
    text, dates = re.subn(rb"Date: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", b"", answer)
    assert dates == 1
    return text


def same(ours: bytes | Refusal, theirs: bytes | Refusal) -> bool:
    if isinstance(ours, Refusal) and isinstance(theirs, Refusal):
        return (ours.status, ours.headers) == (theirs.status, theirs.headers)
    return ours == theirs


@pytest.mark.parametrize("subprotocol", [None, "centrifuge-json"])
def test_the_usual_request_is_answered_as_the_library_does(
    subprotocol: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert handshake._key_of_usual(upgrade(list(USUAL))) == KEY.decode()
    ours, theirs = both(upgrade(list(USUAL)), monkeypatch, subprotocol=subprotocol)
    assert isinstance(ours, bytes)
    assert ours == theirs


def test_no_header_makes_the_answer_another_than_the_library_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for values in itertools.product(*SAID.values()):
        headers = [(n, v) for n, v in zip(SAID, values, strict=True) if v is not None]
        ours, theirs = both(upgrade(headers), monkeypatch)
        assert same(ours, theirs), headers


@pytest.mark.parametrize("name", [*SAID, b"origin", b"sec-websocket-extensions", b"cookie"])
def test_a_header_said_twice_is_the_library_s_to_judge(
    name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = dict(USUAL).get(name, b"x")
    once = [*USUAL] if name in dict(USUAL) else [*USUAL, (name, value)]
    ours, theirs = both(upgrade([*once, (name, value)]), monkeypatch)
    assert same(ours, theirs)


@pytest.mark.parametrize(("method", "version"), [("POST", "1.1"), ("GET", "1.0"), ("GET", "2")])
def test_only_get_over_http_1_1_is_answered(
    method: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = both(upgrade(list(USUAL), method=method, http_version=version), monkeypatch)
    assert isinstance(ours, Refusal)
    assert same(ours, theirs)
