"""The health check's own question, as a container's runtime asks it."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import make, needs_openssl
from tests.cli.program import Program, running_hub

MEMORY = ("--engine", "memory")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "home")
    yield made
    made.end()


def probe(program: Program, **environment: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "clawnet.cli.probe"],
        env={**program.environment, **environment},
        capture_output=True,
        check=False,
        timeout=30,
    ).returncode


def test_a_ready_hub_is_healthy_without_a_token(program: Program, tmp_path: Path) -> None:
    with running_hub(program, tmp_path / "data", *MEMORY, "--bind", "0.0.0.0") as hub:
        port = str(hub.port)
        assert probe(program, CLAWNET_PORT=port) == 0
        assert probe(program, CLAWNET_PORT=port, CLAWNET_BIND="0.0.0.0") == 0
        assert probe(program, CLAWNET_PORT=port, CLAWNET_TLS_CERT="/x", CLAWNET_TLS_KEY="/x") == 1
        hub.stop()
        assert probe(program, CLAWNET_PORT=port) == 1


class NotReady(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503 if self.path == "/readyz" else 200)

    def log_message(self, *_: object) -> None:
        pass


def test_a_hub_that_cannot_store_is_unhealthy(program: Program) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), NotReady) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert probe(program, CLAWNET_PORT=str(server.server_address[1])) == 1
        finally:
            server.shutdown()
            thread.join()


def test_settings_that_cannot_be_read_are_unhealthy(program: Program) -> None:
    assert probe(program, CLAWNET_PORT="x") == 1


@needs_openssl
def test_a_hub_with_tls_is_asked_with_tls(program: Program, tmp_path: Path) -> None:
    files = make(tmp_path)
    with running_hub(program, tmp_path / "data", *MEMORY, *files.options) as hub:
        told = {"CLAWNET_TLS_CERT": str(files.cert), "CLAWNET_TLS_KEY": str(files.key)}
        assert probe(program, CLAWNET_PORT=str(hub.port), **told) == 0
        assert probe(program, CLAWNET_PORT=str(hub.port)) == 1
