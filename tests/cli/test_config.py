"""Settings: sources and their order, types, and what a typo leads to."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.app.app import check, is_closed, tell_unused
from clawnet.app.config import Settings, catalogue, load
from clawnet.core.errors import BadConfiguration
from clawnet.hub.settings import NamespaceSettings


def from_environment(**environment: str) -> Settings:
    return load(flags={}, environment=environment, file=None)


def from_file(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(flags={}, environment={}, file=path)


def test_nothing_given_is_the_default() -> None:
    assert load(flags={"port": None}, environment={}, file=None) == Settings()


def test_every_setting_has_one_variable_of_its_own() -> None:
    variables = [setting.variable for setting in catalogue().values()]
    assert len(set(variables)) == len(variables)


def test_values_are_of_their_type() -> None:
    settings = from_environment(
        CLAWNET_PORT="9",
        CLAWNET_DEV="yes",
        CLAWNET_LIMITS_PUBLISH_PER_S="2.5",
        CLAWNET_CHANNELS_ANONYMOUS_READ="off",
        CLAWNET_ALLOWED_HOSTS="a.example, b.example",
        CLAWNET_RETENTION_EVENTS_PER_CHANNEL_MAX="10",
        CLAWNET_CHANNELS_NAMESPACES='{"jobs": {"read": "anyone"}}',
    )
    assert (settings.port, settings.dev) == (9, True)
    assert settings.hub.limits.publish_per_s == 2.5
    assert settings.hub.channels.anonymous_read is False
    assert settings.hub.channels.namespaces == {"jobs": NamespaceSettings(read="anyone")}
    assert settings.hub.retention.events_per_channel_max == 10
    assert settings.server.allowed_hosts == ("a.example", "b.example")


def test_proofs_that_are_unset_follow_the_keys_and_lists_are_separated_by_commas() -> None:
    assert from_environment(MOLTBOOK_API_KEY="k").identity.taken == ["moltbook", "ssh-key"]
    named = from_environment(MOLTBOOK_API_KEY="k", CLAWNET_IDENTITY_PROOFS="ssh-key, moltbook")
    assert named.identity.taken == ["ssh-key", "moltbook"]
    left_empty = from_environment(MOLTBOOK_API_KEY="", CLAWNET_IDENTITY_PROOFS="")
    assert left_empty.identity.taken == ["ssh-key"]
    with pytest.raises(BadConfiguration):
        from_environment(CLAWNET_IDENTITY_PROOFS="telepathy")


def test_a_proof_that_could_prove_nothing_is_refused_before_the_hub_starts() -> None:
    for environment in (
        {"CLAWNET_IDENTITY_PROOFS": "moltbook"},
        {"CLAWNET_IDENTITY_PROOFS": "shared-secret"},
        {"CLAWNET_IDENTITY_PROOFS": "shared-secret", "CLAWNET_IDENTITY_SHARED_SECRET": "short"},
    ):
        with pytest.raises(BadConfiguration, match="identity"):
            check(from_environment(**environment))
    check(from_environment(CLAWNET_IDENTITY_PROOFS="moltbook", MOLTBOOK_API_KEY="k"))


def test_storage_of_other_systems_is_said_to_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tell_unused({"REDIS_URL": "", "PATH": "/bin"})
    assert not caplog.records
    # Nothing of a value: it may hold a password.
    tell_unused({"REDIS_URL": "redis://:secret@redis", "SUPABASE_KEY": "secret"})
    (record,) = caplog.records
    assert "REDIS_URL, SUPABASE_KEY" in record.message and "no effect" in record.message
    assert "secret" not in record.message
    assert Settings() == from_environment(REDIS_URL="redis://redis", SUPABASE_URL="x")


def test_the_file_has_tables(tmp_path: Path) -> None:
    settings = from_file(
        tmp_path,
        'bind = "::1"\n[limits]\npublish_per_s = 5\n[channels.namespaces.jobs]\nread = "anyone"\n',
    )
    assert settings.bind == "::1"
    assert settings.limits.publish_per_s == 5.0
    assert settings.channels.namespaces["jobs"].read == "anyone"


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("port = 1\n[limits]\nenabled = false\n")
    environment = {"CLAWNET_PORT": "2", "PORT": "3"}
    assert load(flags={"port": 4}, environment=environment, file=path).port == 4
    assert load(flags={}, environment=environment, file=path).port == 2
    assert load(flags={}, environment={"PORT": "3"}, file=path).port == 3
    assert load(flags={}, environment={}, file=path).port == 1
    assert load(flags={"port": 4}, environment={}, file=path).limits.enabled is False


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CLAWNET_PROT": "1"}, "Did you mean CLAWNET_PORT?"),
        ({"CLAWNET_LIMITS_BURST": "1"}, "no setting"),
        ({"CLAWNET_PORT": "x"}, "CLAWNET_PORT"),
        ({"PORT": "70000"}, "PORT"),
        ({"CLAWNET_DEV": "perhaps"}, "CLAWNET_DEV"),
        ({"CLAWNET_ENGINE": "paper"}, "CLAWNET_ENGINE"),
        ({"CLAWNET_CHANNELS_NAMESPACES": "{"}, "not JSON"),
        ({"CLAWNET_CHANNELS_NAMESPACES": '{"a": {"red": "anyone"}}'}, "red"),
        ({"CLAWNET_PORT_FILE": "/x"}, "no setting"),
        ({"CLAWNET_SECRET_KEY_FILE": "/nowhere/at/all"}, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said(environment: dict[str, str], words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        from_environment(**environment)


def test_a_secret_may_lie_in_a_file_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("very secret\n")
    settings = from_environment(CLAWNET_SECRET_KEY_FILE=str(tmp_path / "key"))
    assert settings.secret_key == "very secret"
    both = from_environment(
        CLAWNET_SECRET_KEY="direct", CLAWNET_SECRET_KEY_FILE=str(tmp_path / "key")
    )
    assert both.secret_key == "direct"
    (tmp_path / "key").write_text("")
    with pytest.raises(BadConfiguration, match="is empty"):
        from_environment(CLAWNET_SECRET_KEY_FILE=str(tmp_path / "key"))


def test_a_wrong_value_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration) as caught:
        from_file(tmp_path, "secret_key = 12345678")
    assert "12345678" not in f"{caught.value} {caught.value.next}"


def test_the_clients_variables_and_service_links_are_let_be() -> None:
    settings = from_environment(
        CLAWNET_SERVER="http://x",
        CLAWNET_TOKEN="t",
        CLAWNET_PORT="tcp://10.0.0.1:8080",
        CLAWNET_PORT_8080_TCP="tcp://10.0.0.1:8080",
        CLAWNET_PORT_8080_TCP_ADDR="10.0.0.1",
        CLAWNET_SERVICE_HOST="10.0.0.1",
        CLAWNET_SERVICE_PORT_HTTP="8080",
        CLAWNET_ENGINE="",
    )
    assert settings == Settings()


@pytest.mark.parametrize(
    ("bind", "proxies", "closed"),
    [("127.0.0.1", (), True), ("::1", (), True), ("localhost", (), True),
     ("0.0.0.0", (), False), ("127.0.0.1", ("10.0.0.0/8",), False)],
)  # fmt: skip
def test_loopbacks_conveniences_end_where_others_can_come_in(
    bind: str, proxies: tuple[str, ...], closed: bool
) -> None:
    settings = Settings(bind=bind, behind_proxy=proxies)
    assert is_closed(settings) is closed
    check(settings)
    if not closed:
        with pytest.raises(BadConfiguration):
            check(Settings(bind=bind, behind_proxy=proxies, dev=True))


_toml = st.text() | st.sampled_from(["port", "limits", "[limits]", "=", "1", "\n", '"x"']).flatmap(
    lambda part: st.lists(st.just(part) | st.sampled_from(["a", ".", "=", "1", "\n"])).map("".join)
)


@given(text=_toml)
def test_any_file_is_settings_or_bad_configuration(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(flags={}, environment={}, file=path)
    except BadConfiguration:
        pass


@given(st.dictionaries(st.sampled_from([s.variable for s in catalogue().values()]), st.text()))
def test_any_environment_is_settings_or_bad_configuration(environment: dict[str, Any]) -> None:
    environment = {name: text for name, text in environment.items() if "\0" not in text}
    try:
        load(flags={}, environment=environment, file=None)
    except BadConfiguration:
        pass
