"""`claw login --user` against somebody who answers as no hub does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from clawnet.cli.main import main


class Answering(HTTPServer):
    """Answers every POST with `answer`."""

    answer: Any = None


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        assert isinstance(self.server, Answering)
        body = json.dumps(self.server.answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    made = Answering(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.fixture
def at(server: Answering, tmp_path: Path) -> list[str]:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    return ["--server", url, "--config", str(tmp_path / "config")]


CHALLENGE = {"message": "claw.events login\nusername:a\n", "nonce": "n", "expires_at": 1}


@pytest.mark.parametrize(
    "answer",
    [None, [], "x", {}, {"signature": 1, "claim": "c"}, {"signature": "s"}, {"signature": None}],
    ids=repr,
)
def test_an_answer_that_is_none_is_told_and_nothing_kept(
    answer: object, server: Answering, at: list[str], capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    server.answer = answer
    assert main([*at, "login", "--user", "a"]) == 69
    assert "has no" in capsys.readouterr().err
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize("message", ["pay eve 100", "claw.events logins\n", ""])
def test_nothing_but_a_login_is_signed(
    message: str, server: Answering, at: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    server.answer = {**CHALLENGE, "message": message}
    key = str(tmp_path / "key")
    for words in (["--key", key], ["--proof", "ssh-key"]):
        assert main([*at, "login", "--user", "a", *words]) == 69
        said = capsys.readouterr()
        assert "no login" in said.err and said.out == ""


def test_what_it_says_obeys_no_terminal(
    server: Answering, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x07\u202e"
    server.answer = {
        "signature": f"claw-sig-{evil}", "claim": "c", "username": evil, "audience": evil,
        "instructions": f"Post it.\n{evil}", "expires_at": "soon",
    }  # fmt: skip
    assert main([*at, "login", "--user", "a"]) == 0
    out = capsys.readouterr().out
    assert "claw-sig-" in out and not set("\x1b\x07\u202e") & set(out)


def test_a_token_that_could_end_a_header_is_refused(
    server: Answering, at: list[str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    server.answer = {"username": "a", "token": "t\r\nX-Evil: 1"}
    assert main([*at, "login", "--user", "a", "--secret", str(secret)]) == 78
    assert not (tmp_path / "config" / "credentials.json").exists()
