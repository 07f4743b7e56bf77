"""claw.events by its command line: the program itself, a hub, and a Moltbook that is a fake."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawnet.testing.moltbook import APP_KEY, KEY, FakeMoltbook
from tests.cli.program import CLAW, HubProcess, Program, finish, read_line, running_hub

AUDIENCE = "https://hub.example"
SECRET = "what everybody in the house knows"


@pytest.fixture(scope="module")
def moltbook() -> Iterator[FakeMoltbook]:
    """In a loop and a thread of its own, since the programs are waited for without a loop."""
    fake = FakeMoltbook()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(fake.start(), loop).result(20)
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, moltbook: FakeMoltbook) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    program = Program(folder / "home")
    program.environment |= {
        "CLAWNET_IDENTITY_PROOFS": "moltbook,ssh-key,shared-secret",
        "CLAWNET_IDENTITY_SHARED_SECRET": SECRET,
        "CLAWNET_IDENTITY_MOLTBOOK_AUDIENCE": AUDIENCE,
        "CLAWNET_IDENTITY_MOLTBOOK_APP_KEY": APP_KEY,
        "MOLTBOOK_API_BASE": moltbook.url,
        "MOLTBOOK_API_KEY": KEY,
        "CLAWNET_CLAW_EVENTS_PUBLISH_BURST": "1000",
    }
    with running_hub(program, folder / "data", "--dev") as hub:
        yield hub


class Person:
    """Somebody at a machine of their own: nothing but the program, and the hub's address."""

    def __init__(self, program: Program, hub: HubProcess) -> None:
        self.program = program
        self.program.environment["CLAWNET_SERVER"] = hub.url

    @property
    def config(self) -> Path:
        return self.program.home / "config" / "clawnet"

    def ok(self, *words: str, stdin: bytes | None = None) -> str:
        return self.program.ok(*words, stdin=stdin)

    def fails(self, code: int, *words: str, stdin: bytes | None = None) -> str:
        """Run what has to fail; gives what it says, all of it on stderr."""
        done = self.program.run(*words, stdin=stdin)
        said = done.stderr.decode()
        assert done.returncode == code, (done.returncode, said)
        assert done.stdout == b"" and "Traceback" not in said
        return said

    def here(self, *words: str, code: int = 0, stdin: bytes | None = None) -> str:
        """Run it in this process; gives what it prints, or says on stderr if it has to fail."""
        done = self.program.run_here(*words, stdin=stdin)
        said = done.stderr.decode()
        assert done.returncode == code, (done.returncode, said)
        assert not code or (done.stdout == b"" and "Traceback" not in said)
        return said if code else done.stdout.decode()

    def registered(self, name: str) -> None:
        self.here("dev-register", "--user", name)

    def shell(self, line: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """A line as an agent would type it, claw.events being on its PATH."""
        bin_ = self.program.home / "bin"
        if not bin_.exists():
            bin_.mkdir()
            for name in ("claw", "claw.events"):
                (bin_ / name).write_text(f'#!/bin/sh\nexec {shlex.join(CLAW)} "$@"\n')
                (bin_ / name).chmod(0o755)
        environment = dict(self.program.environment)
        environment["PATH"] = f"{bin_}:{Path(sys.executable).parent}:{environment['PATH']}"
        return subprocess.run(
            ["sh", "-c", line],
            env=environment, cwd=self.program.home, input=stdin or b"", capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture
def people(tmp_path: Path, hub: HubProcess) -> Iterator[list[Person]]:
    made = [Person(Program(tmp_path / f"home{n}"), hub) for n in range(2)]
    yield made
    for one in made:
        one.program.end()


@pytest.fixture
def one(people: list[Person]) -> Person:
    return people[0]


@pytest.fixture
def other(people: list[Person]) -> Person:
    return people[1]


# --- logging in -----------------------------------------------------------------


def test_login_and_verify_run_the_whole_flow_of_moltbook(
    one: Person, moltbook: FakeMoltbook, hub: HubProcess
) -> None:
    agent = moltbook.agent("Molly")
    said = one.ok("login", "--user", "molly")
    found = re.match(r"(claw-sig-\S+)\n", said)
    assert found is not None and "claw.events verify" in said
    kept = one.config / "login.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    # What makes it ours is said nowhere.
    claim = json.loads(kept.read_text())[hub.url]["answer"]["claim"]
    assert claim and claim not in said
    told = one.ok("--json", "login", "--user", "molly")
    assert json.loads(told)["signature"].startswith("claw-sig-")
    assert "claim_" not in told
    found = re.match("(claw-sig-.*)", json.loads(told)["signature"])
    assert found is not None
    assert "signature not found" in one.fails(77, "verify")
    agent.description = f"I am Molly. {found[1]}"
    assert one.ok("verify") == f"logged in at {hub.url} as molly\n"
    assert not kept.exists()
    credentials = one.config / "credentials.json"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    assert one.ok("whoami") == "molly\n"
    assert "waits to be verified" in one.fails(1, "verify")


def test_an_identity_token_does_without_a_post(one: Person, moltbook: FakeMoltbook) -> None:
    moltbook.agent("tokenia")
    assert AUDIENCE in one.ok("login", "--user", "tokenia")
    assert one.fails(77, "verify", "--identity-token", "idt_wrong")
    token = moltbook.identity_token("tokenia", audience=AUDIENCE)
    one.ok("verify", "--identity-token", "-", stdin=f"{token}\n".encode())
    assert one.ok("whoami") == "tokenia\n"


def test_who_sees_the_signature_cannot_verify_with_it(
    one: Person, other: Person, moltbook: FakeMoltbook
) -> None:
    agent = moltbook.agent("seen")
    agent.description = one.ok("login", "--user", "seen").split()[0]
    assert "waits to be verified" in other.fails(1, "verify")
    other.ok("login", "--user", "seen")
    assert "signature not found" in other.fails(77, "verify")
    one.ok("verify")


def test_moltbook_being_down_is_to_try_later(one: Person, moltbook: FakeMoltbook) -> None:
    moltbook.agent("patient")
    signature = one.ok("login", "--user", "patient").split()[0]
    moltbook.trouble = "failing"
    try:
        one.fails(75, "verify")
    finally:
        moltbook.trouble = None
    moltbook.agents["patient"].description = signature
    one.ok("verify")


def test_logout_revokes_the_token_of_a_login(
    one: Person, other: Person, moltbook: FakeMoltbook, hub: HubProcess
) -> None:
    agent = moltbook.agent("leaver")
    agent.description = one.ok("login", "--user", "leaver").split()[0]
    one.ok("verify")
    token = json.loads((one.config / "credentials.json").read_text())["tokens"][hub.url]
    assert other.ok("--token", token, "whoami") == "leaver\n"
    one.ok("logout")
    other.fails(77, "--token", token, "whoami")
    assert token not in (one.config / "credentials.json").read_text()


def test_an_ssh_key_logs_in(one: Person, other: Person, hub: HubProcess) -> None:
    key = one.program.home / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    one.registered("keyed")
    assert "private key" in " ".join(one.here("key", "add", str(key), code=2).split())
    assert "SHA256:" in one.here("key", "add", f"{key}.pub")
    assert "SHA256:" in one.here("key", "list")
    one.here("logout")
    assert one.ok("login", "--user", "keyed", "--key", str(key)).endswith("as keyed\n")
    assert one.here("whoami") == "keyed\n"
    # In two steps, as where the key is on another machine.
    message = other.here("login", "--user", "keyed", "--proof", "ssh-key")
    assert message.startswith("claw.events login\nusername:keyed\nkey:main\nnonce:")
    other.here("verify", code=2)
    signature = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "claw.events"],
        input=message.encode(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    other.here("verify", "--signature", "-", stdin=signature)
    assert other.here("whoami") == "keyed\n"
    # The line that it prints, as it stands.
    line = (
        f"claw login --user keyed --proof ssh-key"
        f" | ssh-keygen -q -Y sign -n claw.events -f {key} | claw verify --signature -"
    )
    assert other.shell(line).returncode == 0
    one.here("key", "remove")
    other.here("login", "--user", "keyed", "--key", str(key), code=1)


def test_a_shared_secret_logs_in_at_once(one: Person, other: Person, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    done = one.program.run("login", "--user", "housemate", "--secret", str(file))
    assert done.returncode == 0 and b"claw key add" in done.stderr
    again = other.fails(1, "login", "--user", "housemate", "--secret", str(file))
    assert "a secret opens a new name once" in again and "claw key add" in again
    assert json.loads(one.ok("whoami", "--json"))["account"]["role"] == "worker"
    other.fails(
        77, "login", "--user", "stranger", "--secret", "-", stdin=b"something else entirely"
    )
    other.fails(78, "login", "--user", "stranger", "--secret", str(tmp_path / "none"))


def test_a_key_that_cannot_sign_is_bad_configuration(one: Person, tmp_path: Path) -> None:
    key = tmp_path / "none"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    one.registered("keyless")
    one.ok("key", "add", f"{key}.pub")
    key.unlink()
    one.ok("logout")
    assert "ssh-keygen cannot sign" in one.fails(
        78, "login", "--user", "keyless", "--key", str(key)
    )


@pytest.mark.parametrize(
    "words",
    [
        ["login"],
        ["login", "--user", "a", "--token", "t"],
        ["login", "--key", "x"],
        ["login", "--user", "a", "--key", "x", "--proof", "moltbook"],
        ["login", "--user", "a", "--proof", "shared-secret"],
    ],
    ids="-".join,
)
def test_a_login_that_says_not_who_or_how_is_wrong_usage(words: list[str], one: Person) -> None:
    one.fails(2, *words)


# --- the prompt -----------------------------------------------------------------


class Agent:
    """Knows nothing but the prompt's text: takes its command lines and runs them in a shell."""

    def __init__(self, person: Person, prompt: str, name: str) -> None:
        self.person = person
        self.name = name
        self.lines = re.findall(r"`(claw(?:\.events)? [^`]+)`", prompt)
        self.prompt = prompt

    def line(self, begins: str, **words: str) -> str:
        """The first command line of the prompt that begins so, its <words> filled in."""
        found = next(line for line in self.lines if line.startswith(begins))
        for name, value in {**words, "your_username": self.name}.items():
            found = found.replace(f"<{name}>", shlex.quote(value))
        assert "<" not in found, found
        return found

    def run(self, begins: str, **words: str) -> str:
        done = self.person.shell(self.line(begins, **words))
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def channel(self, kind: str) -> str:
        """What the prompt's naming rules call the channel of a kind."""
        rules = self.prompt.partition("**Naming Rules**")[2]
        found = re.search(rf"{kind}[^`]*`([^`]+)`", rules)
        assert found is not None
        return found[1].replace("<your_username>", self.name)


def test_an_agent_that_knows_the_prompt_alone_logs_in_listens_speaks_and_grants(
    one: Person, other: Person, moltbook: FakeMoltbook, hub: HubProcess
) -> None:
    profile = moltbook.agent("Promptly")
    other.registered("listener")
    before = Agent(one, one.ok("instruction-prompt"), "promptly")
    assert hub.url in before.prompt and "You have no account yet" in before.prompt
    # First run setup.
    said = before.run("claw.events login --user")
    signature = re.search(r"claw-sig-\S+", said)
    assert signature is not None
    profile.description = signature[0]
    before.run("claw.events verify")
    # Now the prompt is that of its account.
    agent = Agent(one, one.ok("instruction-prompt"), "promptly")
    assert "You are `promptly`" in agent.prompt and "<your_username>`:" not in agent.prompt
    assert "65536 bytes" in agent.prompt
    # To Listen: a subprocess whose output is one JSON line per event.
    lobby, feed = agent.channel("global chat"), agent.channel("public feed")
    private = agent.channel("private").replace("<topic>", "plans")
    words = shlex.split(agent.line("claw.events sub", channel=lobby))[1:]
    listening = one.program.start(*words)
    assert "following" in read_line(listening, stderr=True)
    # To Speak, in the lobby, on its feed and on its private channel.
    agent.run("claw.events pub", channel=lobby, message_string='Hello "world" & more')
    event = json.loads(read_line(listening))
    assert (event["channel"], event["sender"]) == ("public.lobby", "promptly")
    assert event["payload"] == 'Hello "world" & more'
    agent.run("claw.events pub", channel=feed, message_string='{"at": "work"}')
    agent.run("claw.events pub", channel=private, message_string="the plan")
    assert json.loads(other.ok("history", feed).splitlines()[0])["payload"] == {"at": "work"}
    other.fails(77, "history", private)
    # Grant.
    agent.run("claw.events grant", agent="listener", topic="plans")
    assert json.loads(other.ok("history", private))["payload"] == "the plan"


def test_the_requirements_command_lines_work_word_for_word(one: Person, other: Person) -> None:
    one.registered("bob")
    other.registered("carol")
    assert one.shell('claw.events pub public.lobby "Hello world"').returncode == 0
    assert one.shell("claw.events grant carol plans").returncode == 0
    assert one.shell("claw.events revoke carol plans").returncode == 0
    assert one.shell("claw.events instruction-prompt").stdout.startswith(b"# claw.events\n")
    assert one.shell("claw.events whoami").stdout == b"bob\n"


def test_lines_of_a_subscription_go_to_a_file(one: Person, other: Person) -> None:
    one.registered("writer")
    other.registered("reader")
    one.ok("pub", "agent.writer.public.updates", '{"n": 1}')
    one.ok("pub", "agent.writer.public.updates", "two")
    line = "claw.events sub agent.writer.public.updates --since all --count 2 >> incoming_logs.txt"
    assert other.shell(line).returncode == 0
    lines = (other.program.home / "incoming_logs.txt").read_text().splitlines()
    events = [json.loads(text) for text in lines]
    assert [event["payload"] for event in events] == [{"n": 1}, "two"]
    expected = ["channel", "sender", "payload", "timestamp", "id", "offset"]
    assert [list(event) for event in events] == [expected, expected]
    assert [event["offset"] for event in events] == [1, 2]
    # Compact, but for the sender's own bytes.
    assert lines[1] == json.dumps(events[1], separators=(",", ":"))


# --- where options stand --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "payload"),
    [
        (["--json", "pub", "CHANNEL", "hello"], "hello"),
        (["pub", "--json", "CHANNEL", "hello"], "hello"),
        (["pub", "CHANNEL", "--json", "hello"], "hello"),
        (["pub", "CHANNEL", "hello", "--json"], "hello"),
        (["-j", "pub", "CHANNEL", "--", "--json", "-t", "x"], "--json -t x"),
        (["-j", "pub", "CHANNEL", "the", "option", "--json", "is", "text"],
         "the option --json is text"),
        (["-j", "pub", "CHANNEL", "--server http://127.0.0.1:1"], "--server http://127.0.0.1:1"),
        (["-j", "pub", "CHANNEL", "--key", "k", "with", "a", "key"], "with a key"),
    ],
    ids=lambda value: "-".join(value)[:50] if isinstance(value, list) else "",
)  # fmt: skip
def test_global_options_stand_before_or_behind_and_never_in_a_message(
    words: list[str], payload: str, one: Person, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["words"]
    one.registered(f"optional{number}")
    channel = f"agent.optional{number}.said"
    told = json.loads(one.here(*[channel if word == "CHANNEL" else word for word in words]))
    assert told["offset"] == 1 and told["id"].startswith("evt_")
    assert json.loads(one.here("history", channel))["payload"] == payload


def test_options_behind_every_command_reach_it(one: Person, hub: HubProcess) -> None:
    one.registered("flagged")
    token = json.loads((one.config / "credentials.json").read_text())["tokens"][hub.url]
    elsewhere = one.program.home / "elsewhere"
    for words in (
        ["whoami", "-s", hub.url, "-t", token, "-c", str(elsewhere), "-j"],
        ["-s", hub.url, "-t", token, "-c", str(elsewhere), "-j", "whoami"],
        ["-s", "http://127.0.0.1:1", "whoami", "-t", token, "-j", "-s", hub.url],
    ):
        assert json.loads(one.here(*words))["account"]["id"] == "flagged"
    assert json.loads(one.here("advertise", "--json", "list"))["ok"] is True
    assert json.loads(one.here("advertise", "list", "--json"))["ok"] is True


# --- exit codes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["pub", "public.lobby", "x"],
        ["sub", "public.lobby"],
        ["subexec", "public.lobby", "--", "true"],
        ["whoami"],
        ["login", "--user", "a"],
        ["dev-register", "--user", "a"],
        ["grant", "bob", "plans"],
        ["revoke", "bob", "plans"],
        ["lock", "plans"],
        ["unlock", "plans"],
        ["request", "agent.bob.plans", "please"],
        ["advertise", "set", "agent.a.b", "--desc", "x"],
        ["advertise", "delete", "agent.a.b"],
        ["advertise", "list"],
        ["advertise", "show", "agent.a.b"],
        ["advertise", "search", "x"],
        ["validate", "1", "--channel", "agent.a.b"],
        ["key", "list"],
    ],
    ids="-".join,
)
def test_a_hub_that_is_not_there_is_69_and_never_a_traceback(
    words: list[str], tmp_path: Path
) -> None:
    program = Program(tmp_path / "home")
    done = program.run_here("--server", "http://127.0.0.1:1", *words)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (69, b"")
    assert said.startswith("claw: No hub answers at http://127.0.0.1:1")
    assert len(said.splitlines()) == 2 and "Traceback" not in said


def test_without_a_token_it_is_77_and_says_how_to_get_one(one: Person) -> None:
    for words in (["request", "agent.bob.plans"], ["advertise", "set", "agent.a.b"], ["lock", "x"]):
        assert "claw login" in one.fails(77, *words)


# --- governance -----------------------------------------------------------------


def test_locks_and_grants_decide_who_reads(one: Person, other: Person) -> None:
    one.registered("locksmith")
    other.registered("asker")
    channel = "agent.locksmith.data"
    one.here("pub", channel, "secret")
    other.fails(77, "history", channel)
    one.ok("unlock", channel)
    assert "secret" in other.ok("history", channel)
    one.here("lock", "data")
    other.here("history", channel, code=77)
    # By the topic, and by the channel's name.
    for name in ("data", channel):
        one.here("grant", "asker", name)
        assert "secret" in other.here("history", channel)
        one.here("revoke", "asker", name)
        other.here("history", channel, code=77)
    other.here("lock", channel, code=77)
    other.fails(77, "grant", "asker", channel)


def test_a_request_reaches_the_owners_inbox(one: Person, other: Person) -> None:
    one.registered("landlord")
    other.registered("tenant")
    one.ok("pub", "agent.landlord.keys", "x")
    said = other.ok("request", "agent.landlord.keys", "I", "need", "it")
    assert said == "asked landlord for access to agent.landlord.keys\n"
    inbox = one.ok("inbox", "--json")
    assert "agent.landlord.keys" in inbox and "I need it" in inbox
    one.ok("grant", "tenant", "agent.landlord.keys")
    assert "already have access" in other.fails(65, "request", "agent.landlord.keys")


SCHEMA = {
    "type": "object",
    "properties": {"celsius": {"type": "number", "minimum": -273.15}},
    "required": ["celsius"],
}


def test_what_is_advertised_is_found_and_its_schema_holds(
    one: Person, other: Person, tmp_path: Path
) -> None:
    one.registered("sensor")
    other.registered("weatherman")
    channel = "agent.sensor.public.air"
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    one.here("advertise", "set", channel, "--desc", "Air, every minute", "--schema", f"@{file}")
    for words in (["list"], ["list", "sensor"], ["search", "every", "minute"]):
        assert channel in other.here("advertise", *words), words
    shown = other.ok("advertise", "show", channel)
    assert "Air, every minute" in shown and "celsius" in shown
    assert json.loads(other.here("advertise", "show", channel, "--json"))["schema"] == SCHEMA
    # Refused by the hub, and before by validate.
    assert "schema" in one.here("pub", channel, '{"celsius": "warm"}', code=65).lower()
    assert "celsius" in one.here("validate", '{"celsius": -300}', "--channel", channel, code=65)
    good = "claw validate '{\"celsius\":   21.50}' --channel " + channel + " | claw pub " + channel
    assert one.shell(good).returncode == 0
    bad = "claw validate '{\"celsius\": []}' --channel " + channel + " | claw pub " + channel
    refused = one.shell(bad)
    assert refused.returncode == 65 and b"Standard input is empty" in refused.stderr
    lines = other.here("history", channel).splitlines()
    assert [json.loads(line)["payload"] for line in lines] == [{"celsius": 21.5}]
    other.here("advertise", "delete", channel, code=77)
    one.here("advertise", "delete", channel)
    other.here("advertise", "show", channel, code=1)
    one.here("pub", channel, "anything again")


def test_a_channel_without_a_schema_validates_nothing(one: Person) -> None:
    one.registered("vague")
    one.here("advertise", "set", "--channel", "agent.vague.public.x", "--desc", "something")
    assert "no schema" in one.here("validate", "1", "--channel", "agent.vague.public.x", code=1)
    one.here("validate", "1", "--channel", "agent.vague.public.unheard-of", code=1)
    one.here("validate", "1", "--channel", "public.lobby", code=1)
    one.here("advertise", "set", code=2)
    one.here("advertise", "set", "agent.vague.a", "--channel", "agent.vague.b", code=2)


# --- pipes ----------------------------------------------------------------------


def test_a_reader_that_goes_away_ends_a_subscription_quietly(one: Person) -> None:
    one.registered("piper")
    for number in range(3):
        one.ok("pub", "public.pipe", str(number))
    done = one.shell("claw.events sub public.pipe --since all | head -n 1")
    assert done.returncode == 0 and b"BrokenPipe" not in done.stderr
    assert json.loads(done.stdout)["payload"] == 0


def test_a_subscription_survives_the_hub(tmp_path: Path) -> None:
    program = Program(tmp_path / "home")
    with running_hub(program, tmp_path / "data", "--dev") as hub:
        listening = hub.start_claw("sub", "public.lobby", "--count", "2")
        assert "following" in read_line(listening, stderr=True)
        hub.claw("pub", "public.lobby", "before")
        assert json.loads(read_line(listening))["payload"] == "before"
        hub.kill()
        hub.start()
        hub.claw("pub", "public.lobby", "after")
        code, out, err = finish(listening)
    assert code == 0 and json.loads(out)["payload"] == "after"
    assert "Trying again" in err or "lost" in err
