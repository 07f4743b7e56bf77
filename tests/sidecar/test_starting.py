"""What is missing is said in one sentence; what is kept is for this user and this hub only."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clawnet.core.errors import AlreadyRunning, BadConfiguration
from clawnet.sidecar import folder as module
from clawnet.sidecar.folder import LOG, Folder
from clawnet.sidecar.processes import environment_of
from clawnet.sidecar.settings import SidecarSettings
from clawnet.sidecar.telemetry import LinkFacts, specs, usage
from tests.cli.program import Program


@pytest.mark.parametrize(
    ("options", "sentence", "way_out"),
    [
        ([], "No hub is named.", "CLAWNET_SERVER"),
        (["-s", "http://127.0.0.1:1"], "No agent is named.", "AGENT_ID"),
        (["-s", "http://127.0.0.1:1", "--agent-id", "../up"], "is no agent's id", "AGENT_ID"),
        (
            ["-s", "http://127.0.0.1:1", "--agent-id", "bob"],
            "There is neither a token nor a secret for bob.",
            "CLAWNET_SECRET",
        ),
        (
            ["-s", "http://127.0.0.1:1", "--agent-id", "bob", "--secret", "x", "--orchestrate"],
            "there must be a model",
            "CLAWNET_MODEL_URL",
        ),
        (
            ["-s", "http://127.0.0.1:1", "--agent-id", "bob", "--model", "m"],
            "both the address and the name",
            "CLAWNET_MODEL",
        ),
        (
            ["-s", "http://127.0.0.1:1", "--agent-id", "bob", "--allow", "it's"],
            "cannot be read",
            "as in a shell",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    options: list[str], sentence: str, way_out: str, tmp_path: Path
) -> None:
    program = Program(tmp_path)
    program.environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    program.environment["PATH"] = str(tmp_path)
    done = program.run_here("sidecar", *options)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 78, said
    assert len(said) == 2 and sentence in said[0] and way_out in said[1]


def test_a_folder_has_one_sidecar_and_its_token_is_for_one_hub(tmp_path: Path) -> None:
    first = Folder(tmp_path / "bob", "bob")
    with pytest.raises(AlreadyRunning, match="Another sidecar of bob"):
        Folder(tmp_path / "bob", "bob")
    first.keep_token("http://a", "claw_1")
    assert first.token("http://a") == "claw_1" and first.token("http://b") is None
    assert (first.path / "session.json").stat().st_mode & 0o777 == 0o600
    assert first.path.stat().st_mode & 0o777 == 0o700
    (first.path / "session.json").write_text("[1")
    assert first.token("http://a") is None
    first.close()
    first.close()
    Folder(tmp_path / "bob", "bob").close()
    # Whoever could write there could have it run what he likes.
    (tmp_path / "bob").chmod(0o777)
    with pytest.raises(BadConfiguration, match="everybody may write"):
        Folder(tmp_path / "bob", "bob")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration, match="cannot be used"):
        Folder(tmp_path / "file", "bob")


def test_the_log_is_bounded_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_MAX_BYTES", 2_000)
    folder = Folder(tmp_path, "bob")
    logger = logging.getLogger("clawnet.test.alone")
    handler = folder.log_to_file(logger)
    for number in range(500):
        logger.info("line %d", number)
    logger.removeHandler(handler)
    handler.close()
    folder.close()
    files = sorted(tmp_path.glob(f"{LOG}*"))
    assert [file.name for file in files] == [LOG, f"{LOG}.1", f"{LOG}.2", f"{LOG}.3"]
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert files[0].stat().st_mode & 0o777 == 0o600


def test_a_task_sees_the_environment_without_the_sidecars_secrets() -> None:
    own = (
        "CLAWNET_SECRET CLAWNET_SECRET_KEY CLAWNET_TOKEN CLAW_TOKEN CLAWNET_TOKEN_FILE"
        " CLAWNET_MODEL_KEY CLAWNET_ADMIN_PASSWORD clawnet_token SUPABASE_KEY"
    )
    given = dict.fromkeys(own.split(), "x") | {"PATH": "/bin", "TRACEPARENT": "00-1"}
    assert environment_of(given, "t1") == {"PATH": "/bin", "CLAW_TASK_ID": "t1"}


def test_settings_never_show_their_secrets(tmp_path: Path) -> None:
    settings = SidecarSettings(
        server="http://a", agent_id="bob", state_dir=tmp_path, token="claw_t", secret="sesame"
    )
    assert "claw_t" not in repr(settings) and "sesame" not in repr(settings)


def test_telemetry_says_what_this_machine_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"hostname", "os", "version"} <= set(specs())
    found = usage()
    assert {"cpu_percent", "ram_percent", "disk", "load", "uptime_s"} <= set(found)
    link = LinkFacts(connects=3, lost=2, last_lost_ms=5, latency_ms=1.26)
    assert link.as_usage() == {
        "connects": 3, "reconnects": 2, "last_lost_ms": 5, "latency_ms": 1.3,
    }  # fmt: skip

    def hidden() -> float:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr("psutil.boot_time", hidden)
    assert "uptime_s" not in usage() and "disk" in usage()
