"""The command line against a real hub: what it prints, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import CLAW, HubProcess, Program, finish, read_line, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data", "--engine", "memory") as hub:
        yield hub


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "home")
    yield made
    made.end()


def payloads(hub: HubProcess, channel: str) -> list[object]:
    return [json.loads(line)["payload"] for line in hub.claw("history", channel).splitlines()]


# --- publishing ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "stdin", "payload"),
    [
        (["hello", "world"], None, "hello world"),
        (['{"a": [1, 2.50]}'], None, {"a": [1, 2.5]}),
        (["-"], b"from a pipe\n", "from a pipe"),
        ([], b'{"piped": true}\n', {"piped": True}),
        (["🦞 läuft"], None, "🦞 läuft"),
        (["--", "--json", "-t", "x"], None, "--json -t x"),
        (["-t is the flag for --token"], None, "-t is the flag for --token"),
        (["run", "-s", "x", "with", "it"], None, "run -s x with it"),
        ([""], None, ""),
        (["-5"], None, -5),
        (["-"], b"a\x00b", "a\x00b"),
        (["-"], b"\x1b[2J", "\x1b[2J"),
        (["-"], b"x" * 60_000, "x" * 60_000),
        (["-"], b"two\nlines\n\n", "two\nlines\n"),
        (["-"], b"", ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_said_is_what_arrives(
    arguments: list[str], stdin: bytes | None, payload: object, hub: HubProcess,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    channel = f"public.said{request.node.callspec.indices['arguments']}"
    hub.claw("pub", channel, *arguments, stdin=stdin)
    assert payloads(hub, channel) == [payload]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        (["public.a", "-"], b"\xff\xfe", 65, "not valid UTF-8"),
        (["public.a"], b"", 65, "Standard input is empty"),
        (["public.a"], b"x" * 1_000_000, 65, "larger than"),
        (["public.a"], b"[" * 70 + b"]" * 70, 65, "64 levels"),
        (["public.a"], b"1e999", 65, ""),
        (["public.a"], b"x" * 66_000, 65, "allowed"),
        (["public.a"], b'"\\ud800"', 65, "not JSON"),
        (["Public Channel", "x"], None, 65, "not a channel's name"),
        (["public.a", "--type", "nosuch", "x"], None, 65, "event type"),
        (["agent.bob.x", "x"], None, 77, ""),
        ([], None, 2, "Missing argument"),
        (["--nosuch", "public.a", "x"], None, 2, "No such option"),
        (["public.a", "hi", "there", "--json"], None, 2, "nothing was published"),
        (["public.a", "hi", "--key"], None, 2, "--key needs a value"),
        (["public.a", "--type", "--", "hi"], None, 2, "--type needs a value"),
        (["public.a", "--tpye", "x.foo", "hi"], None, 2, "put -- before text that begins with"),
        (["public.a", "--tpye", "x.foo", "hi"], None, 2, "Did you mean --type?"),
        (["public.a", "x", "--bogus"], None, 2, "There is no option --bogus"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_cannot_be_published_is_refused(
    arguments: list[str], stdin: bytes | None, code: int, words: str, hub: HubProcess
) -> None:
    done = hub.try_claw("pub", *arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_an_argument_that_is_not_utf8_is_bad_data(hub: HubProcess) -> None:
    done = subprocess.run(
        [*CLAW, "pub", "public.a", b"\xff"],
        env=hub.program.environment | hub.environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 65


def test_a_repeated_key_publishes_once(hub: HubProcess) -> None:
    first = json.loads(hub.claw("pub", "--json", "public.keyed", "--key", "k1", "x"))
    again = json.loads(hub.claw("pub", "public.keyed", "x", "--key", "k1", "--json"))
    assert not first["deduped"]
    assert again["deduped"]
    assert again["offset"] == first["offset"] == 1
    assert again["id"] == first["id"]
    other = hub.try_claw("pub", "public.keyed", "--key", "k1", "y")
    assert other.returncode == 1
    assert payloads(hub, "public.keyed") == ["x"]


def test_options_stand_before_or_behind_the_command(hub: HubProcess, program: Program) -> None:
    token = hub.admin_token
    for line in (
        ["-s", hub.url, "-t", token, "-j", "whoami"],
        ["whoami", "--server", hub.url, "--token", token, "--json"],
        ["-s", hub.url, "whoami", "-t", token, "-j"],
        ["-s", "http://127.0.0.1:1", "whoami", "-s", hub.url, f"--token={token}", "--json"],
    ):
        assert json.loads(program.ok(*line))["account"]["id"] == "admin"
    for line in (["account", "-s", hub.url, "list", "-t", token], ["account", "list"]):
        environment = {"CLAW_API_URL": hub.url, "CLAW_TOKEN": token}
        assert "admin" in program.ok(*line, env=environment)


# --- login --------------------------------------------------------------------
def test_login_keeps_the_token_and_logout_ends_it(hub: HubProcess, program: Program) -> None:
    token = hub.account("lena")
    program.ok("login", "--token", token, "--server", hub.url)
    file = program.home / "config" / "clawnet" / "credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert program.ok("whoami").strip() == "lena"
    program.ok("logout")
    assert program.run("whoami", "-t", token, "-s", hub.url).returncode == 77
    nobody = program.run("whoami")
    assert (nobody.returncode, nobody.stdout) == (77, b"")
    assert b"nobody: " in nobody.stderr
    told = program.run("whoami", "--json")
    assert told.returncode == 77 and json.loads(told.stdout)["account"] is None


def test_login_reads_the_token_from_a_pipe(hub: HubProcess, program: Program) -> None:
    program.ok("login", "-t", "-", "-s", hub.url, stdin=hub.admin_token.encode() + b"\n")
    assert program.ok("whoami").strip() == "admin"


def test_a_wrong_token_is_not_kept(hub: HubProcess, program: Program) -> None:
    assert program.run("login", "--token", "claw_no", "-s", hub.url).returncode == 77
    assert not (program.home / "config" / "clawnet" / "credentials.json").exists()


def test_logout_without_a_hub_forgets_and_says_so(hub: HubProcess, program: Program) -> None:
    program.ok("login", "-t", hub.account("gone"), "-s", hub.url)
    file = program.home / "config" / "clawnet" / "credentials.json"
    file.write_text(file.read_text().replace(str(hub.port), "1"))
    assert program.run("logout").returncode == 69
    assert json.loads(file.read_text())["tokens"] == {}


def test_without_a_token_the_admins_is_shown_and_not_taken(
    hub: HubProcess, program: Program
) -> None:
    done = program.run(
        "pub", "public.a", "x", "-s", hub.url, env={"CLAWNET_DATA_DIR": str(hub.folder)}
    )
    assert done.returncode == 77
    assert f'claw login --token "$(cat {hub.folder}/admin.token)"' in done.stderr.decode()


# --- every other command ------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    ["whoami", "history public.lobby", "channels", "account list", "account show admin",
     "token list", "grant --list", "status", "doctor", "version"],
)  # fmt: skip
def test_json_is_one_document(line: str, hub: HubProcess) -> None:
    out = hub.claw(*line.split(), "--json")
    assert isinstance(json.loads(out), dict)
    assert out.count("\n") == 1


def test_errors_are_json_as_well(hub: HubProcess) -> None:
    done = hub.try_claw("account", "show", "nobody", "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["code"] == "not_found"
    assert done.stdout == b""


def test_accounts_are_created_changed_and_deleted(hub: HubProcess) -> None:
    hub.claw("account", "create", "Mia", "--handle", "Mia M.", "--kind", "human")
    assert json.loads(hub.claw("account", "show", "mia", "-j"))["handle"] == "Mia M."
    hub.claw("account", "update", "mia", "--role", "warden")
    assert json.loads(hub.claw("account", "show", "mia", "-j"))["role"] == "warden"
    assert hub.try_claw("account", "update", "mia").returncode == 2
    unsaid = hub.try_claw("account", "delete", "mia", stdin=b"y\n")
    assert unsaid.returncode == 2
    assert b"--yes" in unsaid.stderr
    gone = hub.try_claw("account", "delete", "nobody")
    assert gone.returncode == 1
    assert b"There is no account" in gone.stderr
    assert json.loads(hub.claw("account", "show", "mia", "-j"))["id"] == "mia"
    hub.claw("account", "delete", "mia", "--yes")
    assert hub.try_claw("account", "create", "mia").returncode == 1  # an id is never given twice


def test_a_token_can_be_narrowed_and_revoked(hub: HubProcess) -> None:
    owner = hub.account("tom")
    made = json.loads(
        hub.claw("token", "create", "--scope", "events:read", "--expires-in", "1h", "-j",
                 token=owner)
    )  # fmt: skip
    narrow = made["token"]
    assert hub.try_claw("pub", "agent.tom.x", "1", token=narrow).returncode == 77
    assert hub.claw("pub", "agent.tom.x", "1", token=owner)
    hub.claw("token", "revoke", made["id"], token=owner)
    assert hub.try_claw("history", "agent.tom.x", token=narrow).returncode == 77


def test_a_grant_opens_and_its_revocation_closes(hub: HubProcess) -> None:
    eve, dan = hub.account("eve"), hub.account("dan")
    hub.claw("pub", "agent.eve.news", "1", token=eve)
    assert hub.try_claw("history", "agent.eve.news", token=dan).returncode == 77
    hub.claw("grant", "dan", "news", token=eve)
    assert "agent.eve.news" in hub.claw("grant", "--list", token=dan)
    assert hub.claw("history", "agent.eve.news", token=dan)
    said = hub.claw("revoke", "dan", "news", token=eve)
    assert said == "dan has lost all rights on agent.eve.news\n"
    told = json.loads(hub.claw("revoke", "dan", "news", "--json", token=eve))
    none = {"account": "dan", "channel": "agent.eve.news", "verbs": [], "changed": False}
    assert told == none
    assert hub.try_claw("history", "agent.eve.news", token=dan).returncode == 77
    hub.claw("unlock", "news", token=eve)
    assert hub.claw("history", "agent.eve.news", token=dan)
    hub.claw("lock", "news", token=eve)
    assert hub.try_claw("history", "agent.eve.news", token=dan).returncode == 77


def test_history_shows_the_newest_in_order(hub: HubProcess) -> None:
    for number in range(1, 6):
        hub.claw("pub", "public.past", str(number))
    assert payloads(hub, "public.past") == [1, 2, 3, 4, 5]

    def offsets(*options: str) -> list[int]:
        lines = hub.claw("history", "public.past", *options).splitlines()
        return [json.loads(line)["offset"] for line in lines]

    assert offsets("--limit", "2") == [4, 5]
    assert offsets("--reverse", "--limit", "2") == [5, 4]
    assert offsets("--since", "2", "--limit", "2") == [3, 4]
    assert offsets("--since", "all") == [1, 2, 3, 4, 5]
    assert offsets("--since", "10m") == [1, 2, 3, 4, 5]
    ahead = hub.try_claw("history", "public.past", "--since", "99999999")
    assert (ahead.returncode, ahead.stdout) == (0, b"")
    assert b"places 6 to 99999999 of public.past are not in this log" in ahead.stderr
    assert b"gone" not in ahead.stderr
    assert hub.try_claw("history", "public.past", "--since", "tomorrow").returncode == 65


def test_an_unknown_command_names_the_nearest(program: Program) -> None:
    done = program.run("histori")
    assert done.returncode == 2
    assert b"Did you mean history?" in done.stderr


# --- a terminal ---------------------------------------------------------------
def on_terminal(hub: HubProcess, *arguments: str, **environment: str) -> str:
    """What a person would see: stdout is a pseudo-terminal."""
    reader, terminal = os.openpty()
    environment = hub.program.environment | hub.environment() | {"TERM": "xterm", **environment}
    subprocess.run([*CLAW, *arguments], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    out = b""
    try:
        while piece := os.read(reader, 65_536):
            out += piece
    except OSError:
        pass  # Linux says so when the other side is closed
    os.close(reader)
    return out.decode()


def test_text_from_others_does_nothing_to_the_terminal(hub: HubProcess) -> None:
    hub.claw("pub", "public.evil", "-", stdin=b"\x1b]0;owned\x07 \xc2\x9b2J \xe2\x80\xae")
    for line in ("history public.evil", "sub public.evil --since all --count 1"):
        shown = on_terminal(hub, *line.split(), NO_COLOR="1")
        assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", shown)


def test_no_color_means_none(hub: HubProcess) -> None:
    assert "\x1b[1m" in on_terminal(hub, "account", "list")
    assert "\x1b" not in on_terminal(hub, "account", "list", NO_COLOR="1")


# --- what goes wrong ----------------------------------------------------------
def nobody_listens() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "line",
    ["whoami", "pub public.a x", "sub public.a", "sub public.a --durable d", "history public.a",
     "channels", "account list", "status", "login --token claw_x", "lock x"],
)  # fmt: skip
def test_no_hub_is_one_line_and_69(line: str, program: Program) -> None:
    done = program.run(*line.split(), "-s", nobody_listens(), env={"CLAWNET_TOKEN": "claw_x"})
    assert done.returncode == 69
    assert b"No hub answers at http://127.0.0.1:" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    "line", ["whoami", "pub public.a x", "sub public.a", "sub public.a --durable d", "channels"]
)
def test_a_wrong_token_is_77(line: str, hub: HubProcess) -> None:
    done = hub.try_claw(*line.split(), token="claw_wrong")
    assert done.returncode == 77
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["whoami", "pub public.a x", "sub public.a"])
def test_a_wrong_address_is_78(line: str, program: Program) -> None:
    assert program.run(*line.split(), "-s", "ftp://x").returncode == 78


@pytest.mark.parametrize("line", ["whoami", "pub public.a x", "sub public.a", "login -t claw_x"])
def test_damaged_credentials_are_78(line: str, program: Program) -> None:
    folder = program.home / "config" / "clawnet"
    folder.mkdir(parents=True)
    (folder / "credentials.json").write_text("{")
    done = program.run(*line.split())
    assert done.returncode == 78
    assert b"damaged" in done.stderr


def test_something_else_at_the_address_is_69(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = program.start("whoami", "-s", url)
        connection, _ = listener.accept()
        connection.recv(1_000)
        connection.sendall(b"220 smtp.example ESMTP\r\n")
        connection.close()
        code, _, err = finish(process)
    assert code == 69
    assert "Traceback" not in err


# --- following ----------------------------------------------------------------
def test_sub_prints_one_line_for_each_event_at_once(hub: HubProcess) -> None:
    process = hub.start_claw("sub", "public.live")
    assert "following public.live" in read_line(process, stderr=True)
    for payload in ("one", '{"two":2}'):
        sent = json.loads(hub.claw("pub", "public.live", payload, "--json"))
        line = read_line(process)
        value = json.loads(line)
        assert list(value) == ["channel", "sender", "payload", "timestamp", "id", "offset"]
        assert value["channel"] == "public.live"
        assert value["sender"] == "admin"
        assert (value["id"], value["offset"]) == (sent["id"], sent["offset"])
        assert ": " not in line
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_sub_ends_when_its_reader_does(hub: HubProcess) -> None:
    for _ in range(3):
        hub.claw("pub", "public.pipe", "x")
    line = f"{' '.join(CLAW)} sub public.pipe --since all | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=hub.program.environment | hub.environment(),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\n") == 1
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize("line", ["account list", "history public.pipe", "--help", "channels -j"])
def test_other_commands_are_quiet_without_a_reader(line: str, hub: HubProcess) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*CLAW, *line.split()],
        env=hub.program.environment | hub.environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.stderr == b""


def test_sub_follows_patterns_and_aliases(hub: HubProcess) -> None:
    process = hub.start_claw("sub", "public.many.*", "public.townsquare", "--count", "2")
    read_line(process, stderr=True)
    hub.claw("pub", "public.many.a", "1")
    hub.claw("pub", "public.lobby", "2")
    code, out, _ = finish(process)
    assert code == 0
    assert [json.loads(line)["channel"] for line in out.splitlines()] == [
        "public.many.a",
        "public.townsquare",
    ]


def test_sub_counts_signals_and_ends_with_the_last(hub: HubProcess) -> None:
    process = hub.start_claw("sub", "system.timer.second", "--count", "1")
    read_line(process, stderr=True)
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    value = json.loads(line)
    assert value["channel"] == "system.timer.second" and value["payload"]["event"]
    # It is not stored.
    assert (value["id"], value["offset"], value["timestamp"]) == (None, None, None)


def test_sub_ends_by_time(hub: HubProcess) -> None:
    assert hub.try_claw("sub", "public.silent", "--timeout", "0.3").returncode == 0
    silent = hub.try_claw("sub", "public.silent", "--timeout", "0.3", "--count", "1")
    assert silent.returncode == 1


def test_sub_says_what_it_may_not_follow(hub: HubProcess) -> None:
    token = hub.account("nosy")
    done = hub.try_claw("sub", "agent.admin.secret", token=token)
    assert done.returncode == 77
    assert hub.try_claw("sub").returncode == 2
    assert hub.try_claw("sub", "public.*", "--since", "5").returncode == 65
    assert hub.try_claw("sub", "Not A Channel").returncode == 65


def test_a_durable_sub_goes_on_where_it_ended(hub: HubProcess) -> None:
    for number in range(1, 6):
        hub.claw("pub", "public.work", str(number))
    line = ["sub", "public.work", "--durable", "worker", "--since", "all"]

    def took(*options: str) -> list[int]:
        return [json.loads(text)["payload"] for text in hub.claw(*line, *options).splitlines()]

    assert took("--count", "2") == [1, 2]
    assert took("--count", "2") == [3, 4]
    assert took("--timeout", "1") == [5]
    other = hub.try_claw("sub", "public.other", "--durable", "worker", "--timeout", "20")
    assert other.returncode == 1  # that name reads something else


def test_a_revoked_token_ends_a_running_sub(hub: HubProcess) -> None:
    token = hub.account("zed")
    process = hub.start_claw("sub", "public.zed", token=token)
    read_line(process, stderr=True)
    [row] = json.loads(hub.claw("token", "list", "--account", "zed", "-j"))["tokens"]
    hub.claw("token", "revoke", row["id"])
    code, _, err = finish(process)
    assert code == 77, err
