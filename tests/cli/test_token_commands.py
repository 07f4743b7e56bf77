"""claw token, with a real hub: what it prints can be used, and what it refuses is wrong usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawnet.app.app import check
from clawnet.app.config import load
from clawnet.cli import exits
from clawnet.core.errors import BadConfiguration
from tests.cli.program import HubProcess, Program, running_hub

KEY = "a key of thirty-two bytes or more"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    home = tmp_path_factory.mktemp("token")
    with running_hub(Program(home / "home"), home / "data", "--engine", "memory") as hub:
        yield hub


@pytest.mark.parametrize(
    "options",
    [
        ("--jwt", "--account", "bob"),
        ("--jwt", "--name", "x"),
        ("--jwt", "--expires-in", "1h"),
        ("--ttl", "15m"),
        ("--jwt", "--ttl", "soon"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    hub: HubProcess, options: tuple[str, ...]
) -> None:
    done = hub.try_claw("token", "create", *options)
    assert done.returncode == exits.USAGE and done.stdout == b""


def test_a_life_that_the_hub_does_not_give_is_one_sentence(hub: HubProcess) -> None:
    done = hub.try_claw("token", "create", "--jwt", "--ttl", "2d")
    assert done.returncode == exits.BAD_DATA
    assert b"86400" in done.stderr and b"Traceback" not in done.stderr


def test_a_jwt_is_printed_alone_works_and_is_revoked_by_its_name(hub: HubProcess) -> None:
    alice = hub.account("alice")
    made = hub.try_claw("token", "create", "--jwt", "--ttl", "15m", token=alice)
    jwt = made.stdout.decode().strip()
    assert jwt.count(".") == 2 and "\n" not in jwt
    jti = made.stderr.decode().split()[-1]
    hub.claw("pub", "public.lobby", "hello", token=jwt)
    assert '"alice"' in hub.claw("whoami", "--json", token=jwt)
    assert jti in hub.claw("token", "list", token=alice)
    hub.claw("token", "revoke", jti, token=alice)
    done = hub.try_claw("pub", "public.lobby", "late", token=jwt)
    assert done.returncode == exits.NOT_ALLOWED


def test_a_narrow_one_is_narrow(hub: HubProcess) -> None:
    carol = hub.account("carol")
    made = json.loads(
        hub.claw("token", "create", "--jwt", "--scope", "events:read", "--json", token=carol)
    )
    assert made["type"] == "Bearer" and made["scopes"] == ["events:read"]
    assert 0 < made["expires_in_s"] <= 900
    done = hub.try_claw("pub", "public.lobby", "no", token=made["token"])
    assert done.returncode == exits.NOT_ALLOWED


def test_the_list_has_a_cell_for_every_head_and_says_the_last_use(hub: HubProcess) -> None:
    dora = hub.account("dora")
    spare = json.loads(hub.claw("token", "create", "--name", "spare", "--json", token=dora))
    first, *lines = hub.claw("token", "list", token=dora).splitlines()
    assert first.split() == "ID ACCOUNT NAME SCOPES CREATED EXPIRES LAST USED".split()
    by_name = {line.split()[2]: line.split() for line in lines}
    assert len({len(cells) for cells in by_name.values()}) == 1
    assert by_name["spare"][0] == spare["id"] and by_name["spare"][-1] == "-"
    assert by_name["default"][-1].endswith("Z") and by_name["default"][-2] == "-"


# --- the key --------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {"JWT_SECRET": KEY},
        {"CENTRIFUGO_TOKEN_HMAC_SECRET_KEY": KEY},
        {"CENTRIFUGO_TOKEN_HMAC_SECRET_KEY": "x" * 40, "JWT_SECRET": KEY},
        {"JWT_SECRET": "x" * 40, "CLAWNET_TOKENS_JWT_KEY": KEY},
    ],
    ids=lambda environment: "+".join(environment),
)
def test_the_key_has_names_that_other_systems_use(environment: dict[str, str]) -> None:
    settings = load(flags={}, environment=environment, file=None)
    assert settings.hub.tokens.jwt_key == KEY
    check(settings)


def test_the_key_can_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    environment = {"CLAWNET_TOKENS_JWT_KEY_FILE": str(tmp_path / "key"), "JWT_SECRET": "x" * 40}
    assert load(flags={}, environment=environment, file=None).tokens.jwt_key == KEY


def test_a_key_that_is_too_short_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="32"):
        check(load(flags={}, environment={"JWT_SECRET": "secret"}, file=None))
    program = Program(tmp_path / "home")
    done = program.run(
        "up", "--port", "0", "--data-dir", str(tmp_path / "data"), env={"JWT_SECRET": "my secret"}
    )
    assert done.returncode == exits.BAD_CONFIGURATION
    assert b"my secret" not in done.stderr and b"Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
