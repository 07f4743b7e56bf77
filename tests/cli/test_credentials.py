"""The credentials' file: private, whole, and a token for its own server only."""

import json
from pathlib import Path

import pytest

from clawnet.cli.invocation import Invocation
from clawnet.cli.places import Credentials, load, places, save
from clawnet.core.errors import BadConfiguration, Forbidden, Unauthenticated

HERE = "http://127.0.0.1:8080"


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "credentials.json"
    save(path, Credentials(HERE, {HERE: "claw_1"}))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load(path) == Credentials(HERE, {HERE: "claw_1"})
    assert [file.name for file in path.parent.iterdir()] == ["credentials.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"server": 1}', '{"tokens": {"a": 1}}', "\x00"])
def test_a_damaged_file_is_bad_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(text)
    with pytest.raises(BadConfiguration, match="damaged"):
        load(path)


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert load(tmp_path / "none") == Credentials(None, {})


def invocation(tmp_path: Path, **more: object) -> Invocation:
    environment = {str(key): str(value) for key, value in more.pop("environment", {}).items()}  # type: ignore[attr-defined]
    return Invocation(config=str(tmp_path), environment=environment, **more)  # type: ignore[arg-type]


def test_a_token_does_not_go_to_another_server(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text(
        json.dumps({"server": HERE, "tokens": {HERE: "claw_1"}})
    )
    assert invocation(tmp_path).effective_token == "claw_1"
    assert invocation(tmp_path, server="http://evil.example").effective_token is None
    assert invocation(tmp_path, server="http://127.0.0.1:8080/").effective_token == "claw_1"


@pytest.mark.parametrize(
    ("flags", "environment", "server", "token"),
    [
        ({}, {}, HERE, None),
        ({}, {"CLAW_API_URL": "http://a", "CLAW_TOKEN": "1"}, "http://a:80", "1"),
        (
            {},
            {"CLAWNET_SERVER": "b", "CLAW_API_URL": "a", "CLAWNET_TOKEN": "2", "CLAW_TOKEN": "1"},
            "http://b:80",
            "2",
        ),
        ({"server": "c", "token": "3"}, {"CLAWNET_SERVER": "b"}, "http://c:80", "3"),
        ({}, {"CLAWNET_SERVER": "", "CLAWNET_TOKEN": ""}, HERE, None),
    ],
)
def test_flags_win_over_the_environment(
    flags: dict[str, str],
    environment: dict[str, str],
    server: str,
    token: str | None,
    tmp_path: Path,
) -> None:
    found = invocation(tmp_path, environment=environment, **flags)
    assert found.address.url == server
    assert found.effective_token == token


def test_a_token_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("claw_x\n")
    environment = {"CLAWNET_TOKEN_FILE": tmp_path / "t"}
    assert invocation(tmp_path, environment=environment).effective_token == "claw_x"


def test_the_admins_token_is_pointed_at_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("claw_admin")
    at = invocation(tmp_path, environment={"CLAWNET_DATA_DIR": tmp_path})
    assert at.effective_token is None
    error = at.explained(Unauthenticated("This needs a token."))
    assert error.next.startswith(f'Run claw login --token "$(cat {tmp_path}/admin.token)"')


def test_without_any_token_it_says_who_makes_one_and_how(tmp_path: Path) -> None:
    at = invocation(tmp_path, environment={"CLAWNET_DATA_DIR": tmp_path / "none"})
    said = at.explained(Unauthenticated("This needs a token.")).next
    assert "claw login --token TOKEN" in said
    # A bare `claw token create` of the operator would give away the operator's own rights.
    assert "claw invite" in said
    assert said.count("claw token create") == said.count("claw token create --account YOU") == 1


def test_it_is_not_pointed_at_for_another_machine_or_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("claw_admin")
    environment = {"CLAWNET_DATA_DIR": tmp_path}
    far = invocation(tmp_path, environment=environment, server="http://10.0.0.1")
    assert "admin.token" not in far.explained(Unauthenticated("No.")).next
    known = invocation(tmp_path, environment=environment, token="claw_bob")
    assert "admin.token" not in known.explained(Forbidden("No.")).next


def test_config_names_a_folder_or_one_of_its_files(tmp_path: Path) -> None:
    folder = places(str(tmp_path))
    assert (folder.credentials.name, folder.config.name) == ("credentials.json", "config.toml")
    assert places(str(tmp_path / "my.toml")).config == tmp_path / "my.toml"
    assert places(str(tmp_path / "my.json")).credentials == tmp_path / "my.json"


def test_the_xdg_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert places(None).config == tmp_path / "clawnet" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places(None).config == tmp_path / ".config" / "clawnet" / "config.toml"
