"""The unit file, and the real program as a service manager sees it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawnet.app.notify import Notifier
from clawnet.client.http import HubHttp
from tests.certificates import make, needs_openssl
from tests.cli.program import Program, read_line

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "clawnet.service"
MEMORY = ("--engine", "memory")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(10)

    def told(self) -> dict[str, str]:
        """The next message."""
        lines = self.socket.recv(4_096).decode().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def told_until(self, name: str) -> dict[str, str]:
        """The next message with this name; what comes before is thrown away."""
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            message = self.told()
            if name in message:
                return message
        raise AssertionError(f"{name} never came")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@clawnet-test-{os.getpid()}-{time.monotonic_ns()}"
    made = Manager(str(tmp_path / "notify") if request.param == "path" else name)
    yield made
    made.socket.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "home")
    yield made
    made.end()


def test_ready_is_said_when_it_answers_and_stopping_when_it_stops(
    manager: Manager, program: Program, tmp_path: Path
) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    options = ("up", "--port", "0", "--data-dir", str(tmp_path / "data"), *MEMORY)
    process = program.start(*options, env=environment)
    message = manager.told()
    assert message["READY"] == "1"
    url = read_line(process).split()[-1]
    assert message["STATUS"].startswith(f"listening on {url}")
    # Ready means that it answers, at once.
    assert HubHttp(url).call("GET", "/readyz")
    for _ in range(3):
        assert manager.told_until("WATCHDOG")["WATCHDOG"] == "1"
    process.send_signal(signal.SIGTERM)
    assert manager.told_until("STOPPING")["STOPPING"] == "1"
    assert process.wait(timeout=10) == 0


def test_a_reload_is_said_and_ends(manager: Manager, program: Program, tmp_path: Path) -> None:
    options = ("up", "--port", "0", "--data-dir", str(tmp_path / "data"), *MEMORY)
    process = program.start(*options, env={"NOTIFY_SOCKET": manager.address})
    assert manager.told()["READY"] == "1"
    before_us = time.monotonic_ns() // 1_000
    process.send_signal(signal.SIGHUP)
    message = manager.told()
    assert message["RELOADING"] == "1"
    assert before_us <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1_000
    assert manager.told()["READY"] == "1"
    process.send_signal(signal.SIGTERM)
    assert manager.told()["STOPPING"] == "1"
    assert process.wait(timeout=10) == 0


@needs_openssl
def test_a_certificate_is_reloaded_between(
    manager: Manager, program: Program, tmp_path: Path
) -> None:
    files = make(tmp_path)
    options = ("up", "--port", "0", "--data-dir", str(tmp_path / "data"), *MEMORY, *files.options)
    process = program.start(*options, env={"NOTIFY_SOCKET": manager.address})
    assert manager.told()["READY"] == "1"
    process.send_signal(signal.SIGHUP)
    assert manager.told()["RELOADING"] == "1"
    assert manager.told()["READY"] == "1"
    process.terminate()
    process.wait(timeout=10)
    assert process.stderr is not None
    assert b"was read anew" in process.stderr.read()


def test_a_hub_that_cannot_listen_never_says_ready(program: Program, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = program.run("up", "--port", port, *MEMORY, env={"NOTIFY_SOCKET": manager.address})
        assert done.returncode == 78
        manager.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.told()


def test_a_manager_that_is_gone_is_no_reason_to_fail(program: Program, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    options = ("up", "--port", "0", "--data-dir", str(tmp_path / "data"), *MEMORY)
    process = program.start(
        *options, env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
    )
    assert manager.told()["READY"] == "1"
    manager.socket.close()
    url = read_line(process).split()[-1]
    assert HubHttp(url).call("GET", "/readyz")
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_the_variables_are_taken_out_and_anothers_watchdog_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "A": "b"}
    notifier = Notifier.from_environment(environment)
    assert environment == {"A": "b"}
    assert not notifier.is_heard
    assert notifier._watchdog_s is None
    for nonsense in ("-1", "x", "0", "", "¹"):
        assert Notifier.from_environment({"WATCHDOG_USEC": nonsense})._watchdog_s is None


# --- the unit -----------------------------------------------------------------


@needs_systemd
def test_the_unit_is_valid(tmp_path: Path) -> None:
    # `verify` wants the program to exist, and here it lies elsewhere.
    text = UNIT.read_text().replace("/opt/clawnet/bin/claw", "/bin/true")
    path = tmp_path / "clawnet.service"
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    if "Failed to" in done.stderr and "bus" in done.stderr:
        pytest.skip("systemd-analyze cannot run here")
    assert done.returncode == 0, done.stderr
    assert "clawnet.service" not in done.stderr


@needs_systemd
def test_the_unit_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(UNIT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    # 20 is an exposure of 2.0 of 10; listening on the network alone is 0.5.
    assert done.returncode == 0, done.stdout[-2_000:]


def test_the_unit_says_what_the_program_does() -> None:
    lines = UNIT.read_text().splitlines()
    for needed in ("Type=notify", "DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes",
                   "StateDirectory=clawnet", "Restart=on-failure", "MemoryDenyWriteExecute=yes",
                   "Environment=CLAWNET_DATA_DIR=/var/lib/clawnet"):  # fmt: skip
        assert needed in lines
