"""`claw pub --require`, `--expect-reply` and `--reply-to`, and `claw receipt`, with a real hub."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from clawnet.cli.receipts import await_step
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.core.errors import Forbidden, Unavailable
from tests.cli.program import HubProcess, Program, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data", "--engine", "memory") as hub:
        yield hub


@pytest.fixture(scope="module")
def alice(hub: HubProcess) -> str:
    return hub.account("alice")


@pytest.fixture(scope="module")
def bob(hub: HubProcess) -> str:
    return hub.account("bob")


def in_inbox(hub: HubProcess, token: str) -> list[str]:
    lines = hub.claw("history", "agent.bob.inbox", token=token).splitlines()
    return [json.loads(line)["payload"] for line in lines]


def failed(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    assert done.returncode == code, (done.returncode, done.stderr)
    said = done.stderr.decode()
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("channel", ["public.lobby", "agent.bob.inbox.x", "dm.alice.bob"])
def test_a_channel_that_is_no_inbox_is_wrong_usage(
    hub: HubProcess, alice: str, bob: str, channel: str
) -> None:
    done = hub.try_claw("pub", channel, "not this", "--require", "woken", token=alice)
    assert "--require works on an inbox only" in failed(done, 2)
    assert hub.claw("history", "public.lobby", token=alice) == ""


@pytest.mark.parametrize(
    "options",
    [
        ("--require", "read"),
        ("--require", "woken", "--timeout", "-1"),
        ("--require", "woken", "--timeout", "nan"),
        ("--expect-reply", "soon"),
    ],
)
def test_options_that_do_not_fit_publish_nothing(
    hub: HubProcess, alice: str, bob: str, options: tuple[str, ...]
) -> None:
    failed(hub.try_claw("pub", *options, "agent.bob.inbox", "never", token=alice), 2)
    assert "never" not in in_inbox(hub, bob)


def test_nobody_woken_is_exit_code_4_with_the_reason_and_the_event_stays(
    hub: HubProcess, alice: str, bob: str
) -> None:
    done = hub.try_claw(
        "pub", "agent.bob.inbox", "wake up", "--require", "woken", "--timeout", "0.2", token=alice
    )
    said = failed(done, 4)
    assert said.startswith("claw: stored as evt_")
    assert "but not woken: no process of bob has held a wake lease since the hub started" in said
    assert said.count("\n") == 1
    assert done.stdout.startswith(b"published on agent.bob.inbox at offset")
    assert "wake up" in in_inbox(hub, bob)


def test_with_json_the_receipt_is_there_in_both_cases(
    hub: HubProcess, alice: str, bob: str
) -> None:
    options = ("agent.bob.inbox", "j", "--json", "--timeout", "0.1", "--require")
    stored = json.loads(hub.claw("pub", *options, "stored", token=alice))
    assert stored["receipt"]["reached"] is True
    done = hub.try_claw("pub", *options, "acted", token=alice)
    failed(done, 4)
    told = json.loads(done.stdout)
    assert told["receipt"]["event_id"] == told["id"]
    assert told["receipt"]["reached"] is False


def test_a_refused_publish_is_no_unreached_step(hub: HubProcess, alice: str) -> None:
    done = hub.try_claw("pub", "agent.nobody.inbox", "x", "--require", "woken", token=alice)
    assert "There is no account nobody" in failed(done, 77)


def test_an_expected_answer_is_given_by_reply_to(hub: HubProcess, alice: str, bob: str) -> None:
    ask = ("pub", "agent.bob.inbox", "?", "--expect-reply", "600", "--json")
    asked = json.loads(hub.claw(*ask, token=alice))
    assert asked["correlation_id"].startswith("cor_")
    open_receipt = json.loads(hub.claw("receipt", asked["id"], "--json", token=alice))
    assert open_receipt["acted"] is None
    hub.claw("pub", "--reply-to", asked["id"], "agent.alice.inbox", "!", token=bob)
    shown = hub.claw("receipt", asked["id"], "--require", "acted", "--timeout", "0", token=alice)
    assert [line.split()[0] for line in shown.splitlines()] == [
        "stored", "offered", "woken", "acted",
    ]  # fmt: skip
    history = hub.claw("history", "agent.alice.inbox", "--json", token=alice)
    answer = json.loads(history)["events"][-1]
    assert answer["causation_id"] == asked["id"]
    assert answer["correlation_id"] == asked["correlation_id"]


def test_what_may_not_be_read_cannot_be_answered(hub: HubProcess, alice: str, bob: str) -> None:
    asked = json.loads(hub.claw("pub", "agent.bob.notes", "x", "--json", token=bob))
    done = hub.try_claw("pub", "--reply-to", asked["id"], "public.lobby", "!", token=alice)
    assert "There is no event" in failed(done, 1)
    done = hub.try_claw("receipt", asked["id"], token=alice)
    assert "There is no event" in failed(done, 1)


def test_a_receipt_that_no_hub_gave_says_nothing_of_the_event(hub: HubProcess, alice: str) -> None:
    nowhere = {"CLAWNET_SERVER": "http://127.0.0.1:9", "CLAWNET_TOKEN": alice}
    said = ""
    for more in ((), ("--json",), ("--require", "woken", "--timeout", "0.1", "--json")):
        done = hub.program.run("receipt", "evt_x", *more, env=nowhere)
        said = failed(done, 69)
        assert "No hub answers" in said
        assert "stored" not in said
        assert done.stdout == b""
    assert json.loads(said)["error"]["code"] == "hub_unreachable"
    assert "There is no event" in failed(hub.try_claw("receipt", "evt_x", token=alice), 1)


class Faulty:
    """A hub whose answers are given."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.now_s = 0.0

    def call(self, method: str, path: str, **_: object) -> object:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.now_s += 1.0
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def awaited(hub: Faulty, *, is_stored: bool = True) -> tuple[object, str | None]:
    return await_step(
        hub,  # type: ignore[arg-type]
        "evt_x",
        "woken",
        timeout_s=5.0,
        is_stored=is_stored,
        now=lambda: hub.now_s,
        sleep=hub.sleep,
    )


def test_a_hub_that_restarts_meanwhile_is_asked_again() -> None:
    done = {"reached": True}
    hub = Faulty(HubUnreachable("gone"), Unavailable("starting"), {"reached": False}, done)
    assert awaited(hub) == (done, None)


def test_a_hub_that_stays_away_is_the_reason() -> None:
    assert awaited(Faulty(HubUnreachable("No hub answers."))) == (
        None,
        "the hub did not say: No hub answers",
    )


def test_a_hub_that_stays_away_is_raised_unless_the_event_is_known_to_be_stored() -> None:
    for error in (HubUnreachable("No hub answers."), Unavailable("starting")):
        with pytest.raises(type(error)):
            awaited(Faulty(error), is_stored=False)
    with pytest.raises(UnexpectedAnswer):
        awaited(Faulty("text"), is_stored=False)
    assert awaited(Faulty("text")) == (None, "the hub's answer cannot be read")


def test_a_hub_that_went_away_after_its_answer_is_the_reason() -> None:
    hub = Faulty({"reached": False}, HubUnreachable("No hub answers."))
    receipt, reason = awaited(hub, is_stored=False)
    assert receipt == {"reached": False}
    assert reason == "the hub did not say: No hub answers"


def test_a_refusal_is_not_waited_out() -> None:
    hub = Faulty(Forbidden("no"))
    with pytest.raises(Forbidden):
        awaited(hub)
    assert hub.now_s == 1.0
