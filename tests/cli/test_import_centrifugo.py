"""A Centrifugo's configuration as one of this hub: rights, what is left out, secrets."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from clawnet.app.app import check
from clawnet.app.config import Settings, load
from clawnet.cli import centrifugo_names, centrifugo_options
from clawnet.cli.centrifugo_names import CHANNEL_OPTIONS
from clawnet.cli.centrifugo_options import Moved, moved
from clawnet.cli.commands.import_centrifugo import import_centrifugo
from clawnet.core.callers import Caller
from clawnet.core.channels import parse
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.hub.directory import Directory
from tests.cli.program import Program

SECRET = "the secret of thirty-two bytes and more"
API_KEY = "the key of the server API"

V5 = {
    "token_hmac_secret_key": SECRET,
    "api_key": API_KEY,
    "allowed_origins": ["https://chat.example", "http://localhost:3000"],
    "admin": True,
    "admin_password": "hidden-admin-password",
    "engine": "redis",
    "redis_address": "redis://127.0.0.1:6379",
    "allow_anonymous_connect_without_token": True,
    "client_channel_limit": 200,
    "ping_interval": "12s",
    "proxy_connect_endpoint": "http://backend/connect",
    "proxy_subscribe_endpoint": "http://backend/subscribe",
    "tls": True,
    "tls_cert": "cert.pem",
    "tls_key": "key.pem",
    "port": "9000",
    "presence": True,
    "history_size": 10,
    "history_ttl": "300s",
    "allow_subscribe_for_client": True,
    "made_up": {"a": 1},
    "namespaces": [
        {
            "name": "chat",
            "presence": True,
            "join_leave": True,
            "force_push_join_leave": True,
            "history_size": 100,
            "history_ttl": "1h30m",
            "force_recovery": True,
            "allow_subscribe_for_client": True,
            "allow_publish_for_subscriber": True,
            "allow_history_for_subscriber": True,
            "allow_presence_for_subscriber": True,
            "allow_user_limited_channels": True,
            "proxy_subscribe": True,
        },
        {"name": "a.dotted.name"},
        {"presence": True},
    ],
}

V6 = {
    "client": {
        "token": {"hmac_secret_key": SECRET, "issuer": "shop", "jwks_public_endpoint": ""},
        "allowed_origins": ["https://chat.example", "http://localhost:3000"],
        "allow_anonymous_connect_without_token": True,
        "channel_limit": 200,
        "ping_interval": "12s",
        "proxy": {"connect": {"enabled": True, "endpoint": "http://backend/connect"}},
    },
    "http_api": {"key": API_KEY},
    "http_server": {"port": 9000, "tls": {"enabled": True, "cert_pem": "cert.pem",
                                          "key_pem": "key.pem"}},
    "engine": {"type": "redis", "redis": {"address": "redis://127.0.0.1:6379"}},
    "admin": {"enabled": True, "password": "hidden-admin-password"},
    "made_up": {"a": 1},
    "channel": {
        "without_namespace": {
            "presence": True, "history_size": 10, "history_ttl": "300s",
            "allow_subscribe_for_client": True,
        },
        "namespaces": [
            {key.replace("proxy_subscribe", "subscribe_proxy_enabled"): value
             for key, value in one.items()}
            for one in V5["namespaces"]  # type: ignore[attr-defined]
        ],
    },
}  # fmt: skip


def run(*arguments: str) -> Result:
    return CliRunner().invoke(import_centrifugo, arguments, standalone_mode=False)


def written(tmp_path: Path, tree: Any, name: str = "config.json") -> Path:
    path = tmp_path / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "home")


def loaded(path: Path) -> Settings:
    found = load(flags={}, environment={}, file=path, is_file_required=True)
    check(found)
    return found


# --- the whole of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 6])
def test_a_configuration_moves_over(tmp_path: Path, program: Program, version: int) -> None:
    source = written(tmp_path, V5 if version == 5 else V6)
    target = tmp_path / "clawnet.toml"
    done = program.run("import-centrifugo", str(source), "--output", str(target))
    assert (done.returncode, done.stdout) == (0, b"")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    settings = loaded(target)
    assert settings.tokens.jwt_key == SECRET and settings.centrifugo.api_key == API_KEY
    assert settings.allowed_origins == ("https://chat.example", "http://localhost:3000")
    assert settings.centrifugo.anonymous is True and settings.centrifugo.ping_s == 12.0
    assert settings.limits.subscriptions_per_session_max == 200
    assert (settings.port, settings.tls_cert, settings.tls_key) == (9000, "cert.pem", "key.pem")
    assert set(settings.channels.namespaces) == {"", "chat"}
    chat = settings.channels.namespaces["chat"]
    assert (chat.history_size, chat.history_ttl_s) == (100, 5_400.0)
    assert (chat.read, chat.publish, chat.history) == ("accounts", "subscribers", "subscribers")
    assert chat.force_push_join_leave and chat.force_recovery and chat.user_limited
    lines = done.stderr.decode()
    for text in ("made_up", "hidden-admin-password", SECRET, API_KEY):
        assert (text in lines) is (text == "made_up"), text
    keys = {line.split()[0] for line in lines.splitlines() if "  " in line}
    expected = "token_hmac_secret_key api_key admin_password redis_address proxy_connect_endpoint"
    if version == 5:
        assert set(expected.split()) <= keys
    assert "namespaces[1]" in lines and "namespaces[2]" in lines


@pytest.mark.parametrize("version", [5, 6])
def test_every_key_has_its_line(version: int) -> None:
    tree = V5 if version == 5 else V6
    found = moved(tree)
    assert found.version == version
    said = {line.key for line in found.lines}
    for key in json.dumps(tree).split('"')[1::2]:
        # Each name that stands before a value, but for the tables' and namespaces' own.
        if key in CHANNEL_OPTIONS or key in V5:
            if key in ("namespaces", "name"):
                continue
            assert any(key in one for one in said), key
    for line in found.lines:
        assert line.became or line.why, line


ODD: dict[str, Any] = {
    "client_anonymous": True,
    "allow_anonymous_connect_without_token": False,
    "tls_cert": "cert.pem",
    "tls_cert_pem": "cert.pem",
    "history_ttl": "60s",
    "namespaces": [
        {"name": "empty"},
        {"name": "public", "force_recovery_mode": "stream"},
        {"name": "cached", "history_size": 1, "history_ttl": "1h", "force_recovery": True,
         "force_recovery_mode": "cache", "allowed_delta_types": ["fossil"]},
        {"name": "odd", "history_size": "many", "history_ttl": "0s", "force_recovery_mode": "x",
         "allow_history_for_client": True, "allow_subscribe_for_subscriber": True},
    ],
}  # fmt: skip
MEMBER = re.compile(r'([a-z_]+) = ("[^"]*"|\[[^\]]*\]|[a-z0-9.]+)')


def told(found: Moved) -> list[tuple[str, Any]]:
    """What the lines say of the file that is made: names of members, and their values."""
    said = []
    for line in found.lines:
        place, _, value = (line.became or "").partition(" = ")
        table, _, member = place.rpartition(".")
        text = f"{member} = {value}"
        if not value:
            table, text = place, line.why.partition("without an option: ")[2]
        for name, value in MEMBER.findall(text):
            said.append((f"{table}.{name}", tomllib.loads(f"x = {value}")["x"]))
        if line.became in found.settings:
            said.append((line.became, found.settings[line.became]))
        elif line.became is not None and not line.became.startswith("channels.namespaces."):
            said.append((line.became, "what is not there"))
    return said


def made(found: Moved) -> dict[str, Any]:
    """Every member of the file that is made, by its dotted name."""
    members = dict(found.settings)
    for name, rule in found.namespaces.items():
        place = name or '""'
        members |= {f"channels.namespaces.{place}.{key}": value for key, value in rule.items()}
    return members


@pytest.mark.parametrize("tree", [V5, V6, ODD], ids=["v5", "v6", "odd"])
def test_the_lines_say_what_is_in_the_file_and_all_of_it(tmp_path: Path, tree: Any) -> None:
    found = moved(tree)
    assert all(made(found)[name] == value for name, value in told(found))
    assert {name for name, _ in told(found)} == set(made(found))
    target = tmp_path / "clawnet.toml"
    assert run(str(written(tmp_path, tree)), "-o", str(target)).exit_code == 0
    file = tomllib.loads(target.read_text())
    assert file["channels"]["namespaces"] == found.namespaces


def test_modes_and_times_become_members_of_their_own() -> None:
    became = {line.key: line.became or line.why for line in moved(ODD).lines}
    for key, member in {
        "cached.force_recovery_mode": 'recovery_mode = "cache"',
        "public.force_recovery_mode": 'recovery_mode = "stream"',
        "cached.history_ttl": "history_ttl_s = 3600.0",
        "cached.history_size": "history_size = 1",
        # Without a size there is no past to keep for a time.
        "odd.history_ttl": "history_size = 0",
    }.items():
        namespace = key.partition(".")[0]
        assert became[f"namespaces.{key}"] == f"channels.namespaces.{namespace}.{member}"
    assert became["history_ttl"] == 'channels.namespaces."".history_size = 0'
    assert "neither stream nor cache" in became["namespaces.odd.force_recovery_mode"]
    assert "not known" in became["namespaces.odd.allow_subscribe_for_subscriber"]
    assert became["allow_anonymous_connect_without_token"].startswith("another key gave")


@pytest.mark.parametrize(
    "tree", [{}, {"client": {}}, {"allow_anonymous_connect_without_token": "perhaps"}], ids=range(3)
)
def test_nobody_connects_without_a_token_unless_the_file_says_so(tmp_path: Path, tree: Any) -> None:
    """Unset, this hub would let those in who may read what anyone may."""
    target = tmp_path / "clawnet.toml"
    assert run(str(written(tmp_path, tree)), "-o", str(target)).exit_code == 0
    assert loaded(target).centrifugo.anonymous is False
    lines = {line.became: line.why for line in moved(tree).lines}
    assert "without the option" in lines["centrifugo.anonymous"]


@pytest.mark.parametrize(
    "tree",
    [
        {"user_subscribe_to_personal": True, "user_personal_channel_namespace": "user"},
        {
            "client": {
                "subscribe_to_user_personal_channel": {
                    "enabled": True, "personal_channel_namespace": "user",
                }
            }
        },
    ],
    ids=["v5", "v6"],
)  # fmt: skip
def test_channels_of_users_of_their_own_move_over(tmp_path: Path, tree: Any) -> None:
    target = tmp_path / "clawnet.toml"
    assert run(str(written(tmp_path, tree)), "-o", str(target)).exit_code == 0
    centrifugo = loaded(target).centrifugo
    assert (centrifugo.personal_channels, centrifugo.personal_namespace) == (True, "user")


def test_without_the_option_users_have_no_channels_of_their_own(tmp_path: Path) -> None:
    target = tmp_path / "clawnet.toml"
    assert run(str(written(tmp_path, V5)), "-o", str(target)).exit_code == 0
    assert loaded(target).centrifugo.personal_channels is False


@pytest.mark.parametrize("name", ["a.b", "a:b", 5, ["x"], "x" * 65], ids=range(5))
def test_a_namespace_that_cannot_be_named_here_is_left_out(name: Any) -> None:
    found = moved({"user_personal_channel_namespace": name})
    assert "centrifugo.personal_namespace" not in found.settings
    assert any("no name of a namespace" in line.why for line in found.lines)


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    source = written(tmp_path, V5)
    program = Program(tmp_path / "home")
    plain = program.run("import-centrifugo", str(source))
    in_json = program.run("import-centrifugo", str(source), "--json")
    for done in (plain, in_json):
        assert done.returncode == 0, done.stderr
        for secret in (SECRET, API_KEY, "hidden-admin-password"):
            assert secret.encode() not in done.stdout + done.stderr
    printed = json.loads(in_json.stdout)
    assert printed["version"] == 5 and printed["settings"]["tokens.jwt_key"] is None
    assert printed["settings"]["port"] == 9000 and printed["written"] is None
    by_key = {one["key"]: one for one in printed["keys"]}
    assert by_key["redis_address"]["became"] is None and by_key["redis_address"]["why"]


def test_what_is_printed_loads(tmp_path: Path) -> None:
    done = Program(tmp_path / "home").run("import-centrifugo", str(written(tmp_path, V6)))
    path = tmp_path / "printed.toml"
    path.write_bytes(done.stdout)
    assert loaded(path).tokens.jwt_key is None


def test_a_file_that_is_there_stays_unless_it_is_forced(tmp_path: Path, program: Program) -> None:
    source, target = written(tmp_path, V5), tmp_path / "clawnet.toml"
    target.write_text("# mine\n")
    target.chmod(0o644)
    refused = program.run("import-centrifugo", str(source), "-o", str(target))
    assert refused.returncode == 1 and target.read_text() == "# mine\n"
    program.ok("import-centrifugo", str(source), "-o", str(target), "--force")
    assert loaded(target).port == 9000
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_toml_is_read_and_yaml_says_what_to_do(tmp_path: Path, program: Program) -> None:
    text = '[client.token]\nhmac_secret_key = "' + SECRET + '"\n[http_server]\nport = 9001\n'
    done = program.ok("import-centrifugo", str(written(tmp_path, text, "config.toml")))
    assert "port = 9001" in done
    refused = program.run("import-centrifugo", str(written(tmp_path, "a: 1", "config.yaml")))
    assert refused.returncode == 65 and b"JSON" in refused.stderr


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", "[" * 100_000, '{"a":' * 5_000], ids=range(7)
)
def test_what_is_no_configuration_is_bad_data(tmp_path: Path, text: str) -> None:
    done = Program(tmp_path / "home").run("import-centrifugo", str(written(tmp_path, text)))
    assert done.returncode == 65, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_that_is_not_there(tmp_path: Path, program: Program) -> None:
    assert program.run("import-centrifugo", str(tmp_path / "none.json")).returncode == 78


def test_names_from_the_file_are_no_control_sequences(tmp_path: Path, program: Program) -> None:
    tree = {"\x1b[31mred": 1, "namespaces": [{"name": "\x1b]0;x\x07"}], "port": "\x1b[2J"}
    done = program.run("import-centrifugo", str(written(tmp_path, tree)))
    assert done.returncode == 0 and b"\x1b" not in done.stdout + done.stderr


# --- values -------------------------------------------------------------------------------------

VALUES: list[tuple[dict[str, Any], str, Any]] = [
    ({"token_hmac_secret_key": "short"}, "tokens.jwt_key", None),
    ({"token_hmac_secret_key": 5}, "tokens.jwt_key", None),
    ({"allowed_origins": ["*"]}, "allowed_origins", None),
    ({"allowed_origins": ["https://*.example"]}, "allowed_origins", None),
    ({"allowed_origins": "https://a.example https://b.example"}, "allowed_origins",
     ["https://a.example", "https://b.example"]),
    ({"client_insecure": True}, "centrifugo.insecure", True),
    ({"client_insecure": "true"}, "centrifugo.insecure", True),
    ({"client_insecure": 1}, "centrifugo.insecure", None),
    ({"client_user_connection_limit": 0}, "limits.sessions_per_account_max", None),
    ({"client_user_connection_limit": 7}, "limits.sessions_per_account_max", 7),
    ({"pong_timeout": -1}, "centrifugo.pong_timeout_s", None),
    ({"pong_timeout": "1m1.5s"}, "centrifugo.pong_timeout_s", 61.5),
    ({"pong_timeout": "9 seconds"}, "centrifugo.pong_timeout_s", None),
    ({"port": 70_000}, "port", None),
    ({"tls_cert": "-----BEGIN CERTIFICATE-----"}, "tls_cert", None),
    ({"token_audience": "chat"}, "centrifugo.token_audience", "chat"),
    ({"token_issuer": ""}, "centrifugo.token_issuer", None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_a_value_is_taken_or_its_line_says_why_not(number: int) -> None:
    tree, name, expected = VALUES[number]
    found = moved(tree)
    assert found.settings.get(name) == expected
    line = found.lines[0]
    assert line.became == (name if expected is not None else None)
    assert line.became or line.why


@pytest.mark.parametrize("key", sorted(centrifugo_options.FIXED))
def test_what_cannot_be_chosen_is_said(key: str) -> None:
    tables: dict[str, Any] = {"http_api": {}}
    inner = tables
    *path, last = key.split(".")
    for part in path:
        inner = inner.setdefault(part, {})
    inner[last] = "!"
    (line,) = [line for line in moved(tables).lines if line.key == key]
    assert line.became is None and "always" in line.why


# --- permissions --------------------------------------------------------------------------------

USER = Caller(account="ext-1", kind="ext", subject="42")
ANONYMOUS = Caller(account=None, is_confined=True, scopes=frozenset({"events:read"}))

PERMISSIONS = [
    # options, and who may: s(ubscribe) p(ublish) h(istory) presence (i)
    # for a user, for one with a subscription token, for an anonymous client
    ("", "", "s", ""),
    ("allow_subscribe_for_client", "s", "s", ""),
    ("allow_subscribe_for_anonymous", "", "s", ""),
    ("allow_subscribe_for_client allow_subscribe_for_anonymous", "s", "s", "s"),
    ("allow_publish_for_client", "p", "sp", ""),
    ("allow_publish_for_subscriber", "", "sp", ""),
    ("allow_publish_for_subscriber allow_subscribe_for_client", "sp", "sp", ""),
    ("allow_history_for_client", "h", "sh", ""),
    ("allow_history_for_subscriber", "", "sh", ""),
    ("allow_history_for_anonymous", "", "s", ""),
    ("allow_history_for_client allow_history_for_anonymous", "h", "sh", "h"),
    ("allow_presence_for_client", "i", "si", ""),
    ("allow_presence_for_subscriber", "", "si", ""),
    ("allow_presence_for_client allow_presence_for_anonymous", "i", "si", "i"),
    ("-presence allow_presence_for_client", "", "s", ""),
    ("-history_ttl allow_history_for_client", "", "s", ""),
    ("-history_size allow_history_for_client", "", "s", ""),
]
VERBS = {"s": Verb.SUBSCRIBE, "p": Verb.PUBLISH, "h": Verb.READ, "i": Verb.PRESENCE}


@pytest.mark.parametrize("version", [5, 6])
@pytest.mark.parametrize("place", ["namespace", "without"])
@pytest.mark.parametrize("number", range(len(PERMISSIONS)))
def test_who_may_do_what_is_as_it_was(
    tmp_path: Path, version: int, place: str, number: int
) -> None:
    options, user, subscriber, anonymous = PERMISSIONS[number]
    given_options: dict[str, Any] = {"presence": True, "history_size": 5, "history_ttl": "60s"}
    for option in options.split():
        if option.startswith("-"):
            del given_options[option[1:]]
        else:
            given_options[option] = True
    tree: dict[str, Any]
    if place == "without":
        tree = given_options if version == 5 else {"channel": {"without_namespace": given_options}}
        name = "a-room"
    else:
        several = [given_options | {"name": "chat"}]
        tree = {"namespaces": several} if version == 5 else {"channel": {"namespaces": several}}
        name = "chat:room"
    target = tmp_path / "clawnet.toml"
    assert run(str(written(tmp_path, tree)), "-o", str(target)).exit_code == 0
    here = Directory(loaded(target).channels, is_loopback=False)
    here.has_foreign_users = True

    def allowed(caller: Caller, channel: str) -> str:
        place = parse(channel)
        return "".join(
            sign
            for sign, verb in VERBS.items()
            if isinstance(decide(caller, verb, place, here), Allowed)
        )

    holder = msgspec.structs.replace(USER, tickets=frozenset({name}))
    assert allowed(USER, name) == user
    assert allowed(holder, name) == subscriber
    assert allowed(ANONYMOUS, name) == anonymous
    # Nothing of it is about other names.
    assert not allowed(holder, "undeclared:x") and not allowed(holder, "room.x")


@pytest.mark.parametrize("is_on", [True, False])
def test_user_limited_channels_are_an_option(tmp_path: Path, is_on: bool) -> None:
    tree = {"namespaces": [{"name": "chat", "allow_user_limited_channels": is_on}]}
    target = tmp_path / "clawnet.toml"
    run(str(written(tmp_path, tree)), "-o", str(target))
    here = Directory(loaded(target).channels, is_loopback=False)
    here.has_foreign_users = True
    for name, expected in (("chat:a#42,43", is_on), ("chat:a#43", False)):
        found = decide(USER, Verb.SUBSCRIBE, parse(name), here)
        assert isinstance(found, Allowed) is expected


def test_a_namespace_of_the_hub_s_own_names_is_told_what_is_left_of_it() -> None:
    found = moved({"channel_namespace_boundary": ".", "namespaces": [{"name": "public"}]})
    assert any("public.x is the hub's own" in line.why for line in found.lines)


# --- anything -----------------------------------------------------------------------------------

KEYS = st.sampled_from(
    sorted({*CHANNEL_OPTIONS, *centrifugo_names.V5, *V5, "client", "channel", "http_api"})
) | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)
OPTION = st.sampled_from([True, False, 0, 1, 10, "60s", "0", "cache", "stream", "", ["fossil"], []])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=5))
def test_whatever_stands_in_the_file_each_key_has_its_line(tree: dict[str, Any]) -> None:
    found = moved(tree)
    assert all(line.became or line.why for line in found.lines)
    if found.version == 5:
        named = " ".join(line.key for line in found.lines)
        assert all(key in named for key in tree if key != "namespaces" or tree[key])
    assert all(made(found)[name] == value for name, value in told(found))
    assert {name for name, _ in told(found)} == set(made(found))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(CHANNEL_OPTIONS)), OPTION, max_size=9))
def test_whatever_a_namespace_says_its_lines_say_what_it_became(options: dict[str, Any]) -> None:
    found = moved({"namespaces": [{"name": "chat", **options}]})
    assert all(made(found)[name] == value for name, value in told(found))
    assert {name for name, _ in told(found)} == set(made(found))
