"""`claw sub`, `claw pub`, backup, restore and the demo, while hubs come and go."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawnet.cli.demo import Demo
from clawnet.client.http import HubHttp
from tests.cli.program import HubProcess, Program, finish, read_line, running_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with running_hub(Program(tmp_path / "home"), tmp_path / "data") as hub:
        yield hub


def lines_of(process: subprocess.Popen[bytes]) -> tuple[list[dict[str, Any]], threading.Thread]:
    """Collects what a `claw sub` prints, for as long as it runs."""
    got: list[dict[str, Any]] = []

    def listen() -> None:
        assert process.stdout is not None
        got.extend(json.loads(line) for line in process.stdout)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    return got, thread


@pytest.mark.parametrize("options", [(), ("--durable", "d")], ids=["live", "durable"])
def test_sub_outlives_killed_and_restarted_hubs(options: tuple[str, ...], hub: HubProcess) -> None:
    total = 150
    process = hub.start_claw("sub", "public.burst", "--count", str(total), *options)
    read_line(process, stderr=True)
    got, thread = lines_of(process)
    caller = HubHttp(hub.url, hub.admin_token)
    acked: list[str] = []

    def publish() -> None:
        acked.extend(
            caller.publish("public.burst", str(n).encode(), within_s=30, is_patient=True)["id"]
            for n in range(total)
        )

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    for at, is_kill in ((30, True), (60, False), (90, True)):
        while len(acked) < at:
            assert publisher.is_alive()
            time.sleep(0.005)
        if is_kill:
            hub.kill()
        else:
            hub.stop()
        time.sleep(0.2)
        hub.start()
    publisher.join(timeout=40)
    assert len(acked) == total
    assert process.wait(timeout=40) == 0
    thread.join(timeout=5)
    assert process.stderr is not None
    assert process.stdout is not None
    with process.stderr, process.stdout:
        assert b"Traceback" not in process.stderr.read()
    first = list({event["id"]: event["payload"] for event in got}.values())
    # A consumer may be given in another order what a crash made it repeat.
    assert (sorted(first) if options else first) == list(range(total))
    assert {event["id"] for event in got} == set(acked)
    assert len(got) == total  # and no doubles either


def test_sub_says_what_happens_on_stderr_only(hub: HubProcess) -> None:
    process = hub.start_claw("sub", "public.quiet")
    read_line(process, stderr=True)
    hub.kill()
    assert "was lost" in read_line(process, stderr=True)
    assert "No hub answers" in read_line(process, stderr=True)
    hub.start()
    assert "Connected again" in read_line(process, stderr=True)
    hub.claw("pub", "public.quiet", "after")
    assert json.loads(read_line(process))["payload"] == "after"
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130


def test_what_was_acknowledged_is_there_after_a_kill(hub: HubProcess) -> None:
    first = json.loads(hub.claw("pub", "public.kept", "--key", "k", "one", "--json"))
    hub.kill()
    hub.start()
    again = json.loads(hub.claw("pub", "public.kept", "--key", "k", "one", "--json"))
    assert (again["id"], again["deduped"]) == (first["id"], True)
    assert len(hub.claw("history", "public.kept").splitlines()) == 1


# --- backup and restore -------------------------------------------------------
def test_a_backup_of_a_stopped_hub_restores_it(hub: HubProcess, tmp_path: Path) -> None:
    program, data = hub.program, str(hub.folder)
    token = hub.account("kept")
    hub.claw("pub", "public.saved", "before")
    epoch = json.loads(hub.claw("whoami", "-j"))["cursor"]
    hub.stop()
    program.ok("backup", str(tmp_path / "copy"), "--data-dir", data)
    hub.start()
    hub.claw("pub", "public.saved", "after")
    hub.stop()
    done = program.run("restore", str(tmp_path / "copy"), "--data-dir", data, "--yes")
    assert done.returncode == 0, done.stderr
    hub.start()
    payloads = [
        json.loads(line)["payload"] for line in hub.claw("history", "public.saved").splitlines()
    ]
    assert payloads == ["before"]
    assert hub.claw("whoami", token=token).strip() == "kept"
    assert json.loads(hub.claw("whoami", "-j"))["cursor"].split("-")[0] != epoch.split("-")[0]


def test_a_backup_can_be_restored_elsewhere(hub: HubProcess, tmp_path: Path) -> None:
    token = hub.account("moved")
    hub.claw("pub", "public.saved", "x")
    hub.stop()
    hub.program.ok("backup", str(tmp_path / "copy"), "--data-dir", str(hub.folder))
    elsewhere = tmp_path / "new" / "data"
    hub.program.ok("restore", str(tmp_path / "copy"), "--data-dir", str(elsewhere), "--yes")
    with running_hub(hub.program, elsewhere) as other:
        assert other.claw("whoami", token=token).strip() == "moved"
        assert "x" in other.claw("history", "public.saved")


def test_a_backup_is_private_and_never_overwrites(hub: HubProcess, tmp_path: Path) -> None:
    hub.stop()
    target = tmp_path / "copy"
    hub.program.ok("backup", str(target), "--data-dir", str(hub.folder))
    for path in (target, *target.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
    done = hub.program.run("backup", str(target), "--data-dir", str(hub.folder))
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_a_running_hub_goes_on_while_it_is_copied(hub: HubProcess, tmp_path: Path) -> None:
    caller = HubHttp(hub.url, hub.admin_token)
    acked: list[int] = []
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.is_set():
            caller.publish("public.busy", str(len(acked)).encode())
            acked.append(len(acked))

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    while len(acked) < 50:
        time.sleep(0.005)
    before = len(acked)
    target = tmp_path / "copy"
    hub.claw("backup", str(target), "--data-dir", str(hub.folder))
    is_over.set()
    publisher.join(timeout=10)
    assert len(acked) > before
    assert list((hub.folder / "backups").iterdir()) == []
    hub.program.ok("restore", str(target), "--data-dir", str(tmp_path / "other"), "--yes")
    with running_hub(hub.program, tmp_path / "other") as other:
        lines = other.claw("history", "public.busy", "--since", "all", "--limit", "100000")
    payloads = [json.loads(line)["payload"] for line in lines.splitlines()]
    assert payloads == list(range(len(payloads)))
    assert len(payloads) >= before


def test_only_a_master_copies_a_running_hub(hub: HubProcess, tmp_path: Path) -> None:
    line = ["backup", str(tmp_path / "copy"), "--data-dir", str(hub.folder)]
    assert hub.try_claw(*line, token=hub.account("worker")).returncode == 77
    assert hub.program.run(*line, "-s", hub.url).returncode == 77
    narrow = json.loads(hub.claw("token", "create", "--scope", "events:read", "-j"))["token"]
    assert hub.try_claw(*line, token=narrow).returncode == 77
    assert not (tmp_path / "copy").exists()
    assert not (hub.folder / "backups").exists()


def test_restore_refuses_while_a_hub_runs(hub: HubProcess, tmp_path: Path) -> None:
    hub.stop()
    hub.program.ok("backup", str(tmp_path / "copy"), "--data-dir", str(hub.folder))
    hub.start()
    done = hub.program.run(
        "restore", str(tmp_path / "copy"), "--data-dir", str(hub.folder), "--yes"
    )
    assert done.returncode == 78
    assert b"Another hub" in done.stderr
    assert hub.claw("whoami").strip() == "admin"


def test_a_damaged_backup_is_refused_and_nothing_is_changed(
    hub: HubProcess, tmp_path: Path
) -> None:
    hub.claw("pub", "public.saved", "x")
    hub.stop()
    target = tmp_path / "copy"
    hub.program.ok("backup", str(target), "--data-dir", str(hub.folder))
    with (target / "log.db").open("r+b") as file:
        file.seek(4_096)
        file.write(b"damage")
    done = hub.program.run("restore", str(target), "--data-dir", str(hub.folder), "--yes")
    assert done.returncode == 65
    (target / "backup.json").write_text("{")
    assert (
        hub.program.run("restore", str(target), "--data-dir", str(hub.folder), "--yes").returncode
        == 65
    )
    assert (
        hub.program.run(
            "restore", str(tmp_path / "none"), "--data-dir", str(hub.folder), "--yes"
        ).returncode
        == 65
    )
    hub.start()
    assert "x" in hub.claw("history", "public.saved")


# --- the demo -----------------------------------------------------------------
def test_the_demo_proves_what_it_says(tmp_path: Path) -> None:
    program = Program(tmp_path / "home")
    began_s = time.monotonic()
    done = program.run("demo", "--events", "100", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began_s < 60
    out = done.stdout.decode()
    assert "100 acknowledged, 100 received: none missing, none out of order, 0 twice" in out
    assert "claw up" in out
    report = json.loads(program.run("demo", "--events", "40", "--json", timeout=60).stdout)
    assert report["ok"]
    assert report["received"] == report["acknowledged"] == 40


class ForgetfulDemo(Demo):
    """A demo with a hub that loses what it acknowledged: the proof must fail."""

    def _spawn(self, arguments: list[str], **more: Any) -> subprocess.Popen[str]:
        if arguments[0] == "up":
            arguments = [*arguments, "--engine", "memory"]
        return super()._spawn(arguments, **more)


def test_the_demo_fails_loudly_if_something_is_lost(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    demo = ForgetfulDemo(events=60, is_json=False)
    assert demo.run() == 1
    assert "FAILED: " in capsys.readouterr().err
