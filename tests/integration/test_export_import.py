"""claw export and claw import between two real hubs: whole, resumable, nothing twice."""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.program import HubProcess, Program, running_hub


@contextmanager
def filled_hub(folder: Path) -> Iterator[HubProcess]:
    with running_hub(Program(folder / "home"), folder / "data", "--engine", "memory") as hub:
        hub.claw("account", "create", "alpha")
        token = hub.claw("token", "create", "--account", "alpha").strip()
        for n in range(3):
            hub.claw("pub", "public.a", json.dumps({"n": n, "x": 1.10}), token=token)
        hub.claw("pub", "agent.alpha.inbox", "for alpha")
        hub.claw("pub", "agent.alpha.notes", "a note", token=token)
        hub.alpha = token  # type: ignore[attr-defined]
        yield hub


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """No test publishes here: others count what it holds."""
    with filled_hub(tmp_path_factory.mktemp("source")) as hub:
        yield hub


@pytest.fixture
def own_source(tmp_path: Path) -> Iterator[HubProcess]:
    """As `source`, for a test that adds to it."""
    with filled_hub(tmp_path / "source") as hub:
        yield hub


@pytest.fixture
def target(tmp_path: Path) -> Iterator[HubProcess]:
    with running_hub(Program(tmp_path / "home"), tmp_path / "data") as hub:
        yield hub


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def payloads(hub: HubProcess, channel: str) -> list[object]:
    return [json.loads(line)["payload"] for line in hub.claw("history", channel).splitlines()]


def alpha(hub: HubProcess) -> str:
    return str(hub.alpha)  # type: ignore[attr-defined]


def test_an_export_is_whole_private_and_never_overwrites(
    source: HubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "all.jsonl"
    done = source.try_claw("export", str(file), token=alpha(source))
    assert done.returncode == 0, done.stderr
    assert b"5 events up to" in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = lines(file)
    assert found[0]["clawnet_export"] == 1
    assert [line["channel"] for line in found if "seq" in line] == [
        "public.a", "public.a", "public.a", "agent.alpha.inbox", "agent.alpha.notes",
    ]  # fmt: skip
    assert found[-1] == {"end": {"events": 5}}
    before = file.read_bytes()
    again = source.try_claw("export", str(file), token=alpha(source))
    assert again.returncode != 0
    assert b"never overwrites" in again.stderr
    assert file.read_bytes() == before


def test_an_export_of_others_channels_is_refused(source: HubProcess, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    done = source.try_claw("export", str(file), "--channel", "agent.alpha.notes")
    assert done.returncode == 77, done.stderr
    assert b"Traceback" not in done.stderr
    everything = source.claw("export", "-", "--json")
    assert "a note" not in everything
    assert "for alpha" not in everything


def test_a_broken_off_export_goes_on_behind_its_last_cursor(
    own_source: HubProcess, tmp_path: Path
) -> None:
    source = own_source
    file = tmp_path / "cut.jsonl"
    source.claw("export", str(file), "--channel", "public.a", token=alpha(source))
    whole = file.read_bytes()
    events = [line for line in lines(file) if "seq" in line]
    # As if the page with the first event had been the last that was written whole.
    epoch = str(events[0]["epoch"]).rpartition(".")[0]
    head, first, second = whole.split(b"\n")[:3]
    cursor = json.dumps({"cursor": f"{epoch}-{events[0]['seq']}"}).encode()
    file.write_bytes(b"\n".join([head, first, cursor, second[:40]]))
    source.claw("export", str(file), "--resume", token=alpha(source))
    assert [line for line in lines(file) if "seq" in line] == events
    assert lines(file)[-1] == {"end": {"events": 3}}
    # What has ended can go on later, with what came since.
    source.claw("pub", "public.a", '"later"', token=alpha(source))
    source.claw("export", str(file), "--resume", token=alpha(source))
    assert [line["data"] for line in lines(file) if "seq" in line][-1] == "later"
    assert len([line for line in lines(file) if "seq" in line]) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"not json\n", b'{"clawnet_export":9,"channels":[">"],"since":null}\n', b"[]\n"],
)
def test_what_is_no_export_is_neither_resumed_nor_imported(
    content: bytes, source: HubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    for command in (["export", str(file), "--resume"], ["import", str(file)]):
        done = source.try_claw(*command)
        assert done.returncode == 65, (command, done.stderr)
        assert b"Traceback" not in done.stderr
    assert file.read_bytes() == content


def test_an_import_needs_the_accounts_and_is_stored_once(
    source: HubProcess, target: HubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "move.jsonl"
    source.claw("export", str(file), "--channel", "agent.alpha.>", token=alpha(source))
    refused = target.try_claw("import", str(file))
    assert refused.returncode == 1, refused.stderr
    assert b"'alpha' spoke in the export and is no account here" in refused.stderr
    target.claw("account", "create", "alpha")
    token = target.claw("token", "create", "--account", "alpha").strip()
    assert target.try_claw("import", str(file), token=token).returncode == 77
    done = json.loads(target.claw("import", str(file), "--json"))
    assert (done["stored"], done["repeated"]) == (2, 0)
    assert not file.with_name("move.jsonl.import").exists()
    done = json.loads(target.claw("import", str(file), "--json"))
    assert (done["stored"], done["repeated"]) == (0, 2)
    found = json.loads(target.claw("history", "agent.alpha.notes", "--json", token=token))
    assert [event["data"] for event in found["events"]] == ["a note"]
    assert found["events"][0]["imported"]["by"] == "admin"


def test_a_killed_hub_costs_an_import_nothing(
    source: HubProcess, target: HubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "big.jsonl"
    source.claw("export", str(file), "--channel", "public.a", token=alpha(source))
    head, first, *_ = file.read_bytes().split(b"\n")
    event = json.loads(first)
    base = event["id"][:-12]
    rows = [head]
    for n in range(1, 2_001):
        changed = {**event, "seq": n, "offset": n, "id": f"{base}{n:012x}", "data": n}
        rows.append(json.dumps(changed, separators=(",", ":")).encode())
    file.write_bytes(b"\n".join(rows) + b"\n")
    running = target.start_claw("import", str(file), "--missing", "tombstone")
    target.kill()
    target.start()
    _, said = running.communicate(timeout=60)
    if running.returncode != 0:
        # It may have been away for longer than the command waits; then it can be run again.
        assert running.returncode == 69, said
    target.claw("import", str(file), "--missing", "tombstone")
    found = json.loads(
        target.claw("history", "public.a", "--json", "--limit", "5000", "--since", "all")
    )
    assert [row["data"] for row in found["events"]] == list(range(1, 2_001))


def test_a_cut_off_line_is_told_and_what_is_before_it_is_stored(
    source: HubProcess, target: HubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "cut.jsonl"
    source.claw("export", str(file), "--channel", "public.a", token=alpha(source))
    whole = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(whole[:3]) + b"\n" + whole[3][:50])
    target.claw("account", "create", "alpha")
    done = target.try_claw("import", str(file))
    assert done.returncode == 65, done.stderr
    assert b"cut off" in done.stderr
    assert len(payloads(target, "public.a")) == 2


def test_an_import_into_a_hub_begun_anew_begins_at_the_first_line(
    source: HubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "again.jsonl"
    source.claw("export", str(file), "--channel", "public.a", token=alpha(source))
    head, first, *_ = file.read_bytes().split(b"\n")
    event = json.loads(first)
    base = event["id"][:-12]
    rows = [head]
    for n in range(1, 602):
        actor = {"id": "admin" if n <= 600 else "zed", "handle": "x"}
        rows.append(
            json.dumps(
                {**event, "seq": n, "offset": n, "id": f"{base}{n:012x}", "actor": actor, "data": n}
            ).encode()
        )
    file.write_bytes(b"\n".join(rows) + b"\n")
    program = Program(tmp_path / "home")
    with running_hub(program, tmp_path / "one") as hub:
        broken = hub.try_claw("import", str(file))
        assert broken.returncode == 1, broken.stderr
        assert file.with_name("again.jsonl.import").exists()
        port = hub.port
    other = HubProcess(program, tmp_path / "two")
    other.port = port
    other.start()
    try:
        other.claw("account", "create", "zed")
        done = json.loads(other.claw("import", str(file), "--json"))
    finally:
        program.end()
    assert done["stored"] == 601


def test_a_refused_export_leaves_no_file(source: HubProcess, tmp_path: Path) -> None:
    file = tmp_path / "refused.jsonl"
    for wrong in (["--since", "bogus"], ["--channel", "Bad!"], ["--token", "claw_wrong"]):
        done = source.try_claw("export", str(file), *wrong)
        assert done.returncode not in (0, 1), (wrong, done.stderr)
        assert not file.exists(), wrong


def test_a_file_that_is_not_there_is_told(source: HubProcess, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no" / "such.jsonl")
    for command, code in (
        (["import", nowhere], 65),
        (["export", nowhere, "--resume"], 65),
        (["export", nowhere], 78),
    ):
        done = source.try_claw(*command)
        assert done.returncode == code, (command, done.stderr)
        assert b"No such file" in done.stderr
        assert b"claw config" not in done.stderr
