"""SSH keys: who registers one, what is signed, and what of ssh-keygen's making is taken."""

from __future__ import annotations

import asyncio
import json
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from shutil import which

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import DeleteAccount
from clawnet.core.calls.identity import (
    AddKey,
    BeginLogin,
    FinishLogin,
    KeyChallenge,
    KeyList,
    ListKeys,
    LoggedIn,
    RemoveKey,
)
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import IssueJwt
from clawnet.core.calls.worlds import CreateWorld
from clawnet.core.errors import BadRequest, DiskFull, Forbidden, NotFound, Unauthenticated
from clawnet.features.identity.keys import KEYS_PER_ACCOUNT_MAX
from clawnet.features.identity.sshsig import Malformed, SshKey, is_signed, parse_key
from clawnet.hub.tokens import bootstrap_admin
from clawnet.testing.hubs import HubRig

SPACE = "claw.events"
KINDS = {
    "ed25519": ["-t", "ed25519"],
    "p256": ["-t", "ecdsa", "-b", "256"],
    "p384": ["-t", "ecdsa", "-b", "384"],
    "p521": ["-t", "ecdsa", "-b", "521"],
    "rsa": ["-t", "rsa", "-b", "2048"],
}


class Pair:
    """A key pair that ssh-keygen made, which is also what signs with it."""

    def __init__(self, folder: Path, name: str, options: list[str]) -> None:
        self.path = folder / name
        _run(["ssh-keygen", "-q", "-N", "", "-C", "a comment", "-f", str(self.path), *options])
        self.public = self.path.with_suffix(".pub").read_text()

    def sign(self, message: str, *, space: str = SPACE, more: tuple[str, ...] = ()) -> str:
        command = ["ssh-keygen", "-q", "-Y", "sign", "-n", space, "-f", str(self.path), *more]
        return _run(command, message.encode()).decode()


def _run(command: list[str], given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, capture_output=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    if which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    folder = tmp_path_factory.mktemp("keys")
    made = {name: Pair(folder, name, options) for name, options in KINDS.items()}
    made["other"] = Pair(folder, "other", KINDS["ed25519"])
    made["weak"] = Pair(folder, "weak", ["-t", "rsa", "-b", "1024"])
    return made


@pytest.fixture
async def keyed(rig: HubRig, pairs: dict[str, Pair], ada: Caller) -> Caller:
    """ada, with her key `main`."""
    await rig.hub.call(AddKey(public_key=pairs["ed25519"].public), caller=ada)
    return ada


async def begin(rig: HubRig, username: str = "ada", key_name: str = "main") -> KeyChallenge:
    call = BeginLogin(username=username, key_name=key_name)
    challenge: KeyChallenge = await rig.hub.call(call, caller=STRANGER)
    return challenge


async def finish(rig: HubRig, challenge: KeyChallenge, signature: str, **other: str) -> LoggedIn:
    how = {"username": challenge.username, "key_name": challenge.key_name} | other
    call = FinishLogin(nonce=challenge.nonce, signature=signature, **how)
    found: LoggedIn = await rig.hub.call(call, caller=STRANGER)
    return found


async def keys_of(rig: HubRig, caller: Caller) -> list[str]:
    found: KeyList = await rig.hub.call(ListKeys(), caller=caller)
    return [key.key_name for key in found.keys]


# --- logging in ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_what_ssh_keygen_signs_logs_in(
    rig: HubRig, ada: Caller, pairs: dict[str, Pair], kind: str
) -> None:
    await rig.hub.call(AddKey(public_key=pairs[kind].public, key_name=kind), caller=ada)
    challenge = await begin(rig, key_name=kind)
    lines = challenge.message.split("\n")
    now_s = rig.clock.wall_ms() // 1_000
    assert lines == ["claw.events login", "username:ada", f"key:{kind}",
                     f"nonce:{challenge.nonce}", f"ts:{now_s}"]  # fmt: skip
    assert (challenge.namespace, challenge.issued_at) == (SPACE, now_s)
    assert challenge.expires_at == now_s + 120
    found = await finish(rig, challenge, pairs[kind].sign(challenge.message))
    assert rig.hub.authenticate(found.token).account == "ada"
    assert found.hint


async def test_both_hashes_of_an_rsa_key_are_taken(pairs: dict[str, Pair]) -> None:
    key = parse_key(pairs["rsa"].public)
    for more in (("-O", "hashalg=sha256"), ("-O", "hashalg=sha512")):
        signature = pairs["rsa"].sign("text", more=more)
        assert is_signed(b"text", signature, key=key, namespace=SPACE)


async def test_a_challenge_can_be_answered_once(
    rig: HubRig, keyed: Caller, pairs: dict[str, Pair]
) -> None:
    challenge = await begin(rig)
    signature = pairs["ed25519"].sign(challenge.message)
    await finish(rig, challenge, signature)
    with pytest.raises(BadRequest, match="invalid or expired challenge"):
        await finish(rig, challenge, signature)


async def test_a_failed_answer_ends_the_challenge(
    rig: HubRig, keyed: Caller, pairs: dict[str, Pair]
) -> None:
    challenge = await begin(rig)
    with pytest.raises(Unauthenticated, match="signature verification failed"):
        await finish(rig, challenge, "-----BEGIN SSH SIGNATURE-----")
    with pytest.raises(BadRequest, match="invalid or expired challenge"):
        await finish(rig, challenge, pairs["ed25519"].sign(challenge.message))


async def test_a_challenge_holds_for_two_minutes(
    rig: HubRig, keyed: Caller, pairs: dict[str, Pair]
) -> None:
    late, soon = await begin(rig), await begin(rig)
    rig.clock.advance(119)
    await finish(rig, soon, pairs["ed25519"].sign(soon.message))
    rig.clock.advance(1)
    with pytest.raises(BadRequest, match="invalid or expired challenge"):
        await finish(rig, late, pairs["ed25519"].sign(late.message))


async def test_another_key_namespace_or_message_does_not_log_in(
    rig: HubRig, keyed: Caller, pairs: dict[str, Pair]
) -> None:
    mine = pairs["ed25519"]
    earlier = (await begin(rig)).message
    for sign in (
        lambda message: pairs["other"].sign(message),
        lambda message: mine.sign(message, space="git"),
        lambda message: mine.sign(message + "\n"),
        lambda message: mine.sign(earlier),
        lambda message: pairs["rsa"].sign(message),
    ):
        challenge = await begin(rig)
        with pytest.raises(Unauthenticated, match="signature verification failed"):
            await finish(rig, challenge, sign(challenge.message))


async def test_a_challenge_is_for_one_account_and_key(
    rig: HubRig, keyed: Caller, bob: Caller, pairs: dict[str, Pair]
) -> None:
    await rig.hub.call(AddKey(public_key=pairs["ed25519"].public), caller=bob)
    await rig.hub.call(AddKey(public_key=pairs["ed25519"].public, key_name="two"), caller=keyed)
    for other in ({"username": "bob"}, {"key_name": "two"}):
        challenge = await begin(rig)
        signature = pairs["ed25519"].sign(challenge.message)
        with pytest.raises(BadRequest, match="invalid or expired challenge"):
            await finish(rig, challenge, signature, **other)


async def test_without_a_registered_key_there_is_no_challenge(rig: HubRig, keyed: Caller) -> None:
    for username, key_name in (("ada", "two"), ("nobody", "main")):
        with pytest.raises(NotFound, match="public key not found"):
            await begin(rig, username, key_name)


async def test_who_names_no_key_is_asked_for_the_usual_one(rig: HubRig, keyed: Caller) -> None:
    challenge = await rig.hub.call(BeginLogin(username="ADA"), caller=STRANGER)
    assert (challenge.key_name, challenge.username) == ("main", "ada")


async def test_nonce_and_signature_are_required(rig: HubRig, keyed: Caller) -> None:
    for call in (
        FinishLogin(username="ada", nonce="", signature=""),
        FinishLogin(username="ada", nonce="n"),
        FinishLogin(username="ada", signature="s"),
    ):
        with pytest.raises(BadRequest, match="nonce and signature required"):
            await rig.hub.call(call, caller=STRANGER)


async def test_a_removed_or_replaced_key_logs_nobody_in(
    rig: HubRig, keyed: Caller, pairs: dict[str, Pair]
) -> None:
    challenges = [await begin(rig) for _ in range(2)]
    await rig.hub.call(AddKey(public_key=pairs["other"].public), caller=keyed)
    with pytest.raises(Unauthenticated):
        await finish(rig, challenges[0], pairs["ed25519"].sign(challenges[0].message))
    await rig.hub.call(RemoveKey(key_name="main"), caller=keyed)
    with pytest.raises(Unauthenticated):
        await finish(rig, challenges[1], pairs["other"].sign(challenges[1].message))
    with pytest.raises(NotFound):
        await begin(rig)


async def test_a_removed_key_is_gone_though_the_disk_is_full(
    rig: HubRig, keyed: Caller, pairs: dict[str, Pair]
) -> None:
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await rig.hub.call(RemoveKey(key_name="main"), caller=keyed)
    with pytest.raises(NotFound):
        await begin(rig)
    rig.engine.is_full = False
    await rig.hub.call(AddKey(public_key=pairs["other"].public, key_name="b"), caller=keyed)
    await rig.restart()
    assert await keys_of(rig, await rig.caller("ada")) == ["b"]


async def test_the_key_of_a_deleted_account_logs_nobody_in(
    rig: HubRig, keyed: Caller, master: Caller, pairs: dict[str, Pair]
) -> None:
    challenge = await begin(rig)
    await rig.hub.call(DeleteAccount(id="ada"), caller=master)
    with pytest.raises(Unauthenticated):
        await finish(rig, challenge, pairs["ed25519"].sign(challenge.message))
    await rig.restart()
    with pytest.raises(NotFound):
        await begin(rig)


async def test_who_is_deleted_while_it_logs_in_is_not_logged_in(
    rig: HubRig, keyed: Caller, master: Caller, pairs: dict[str, Pair]
) -> None:
    challenge = await begin(rig)
    signature = pairs["ed25519"].sign(challenge.message)
    # The first change holds the lock while the proof is looked at.
    calls = (AddKey(public_key=pairs["p256"].public, key_name="b"), keyed), (
        DeleteAccount(id="ada"), master,
    )  # fmt: skip
    tasks = [rig.hub.spawn(rig.hub.call(call, caller=caller)) for call, caller in calls]
    tasks.append(rig.hub.spawn(finish(rig, challenge, signature)))
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [type(None), type(None), NotFound]
    assert rig.hub.directory.tokens_of("main", "ada") == []


# --- registering --------------------------------------------------------------


async def test_keys_outlive_a_restart_and_are_told_of(
    rig: HubRig, keyed: Caller, bob: Caller, master: Caller, pairs: dict[str, Pair]
) -> None:
    await rig.hub.call(AddKey(public_key=pairs["p256"].public, key_name="a.2"), caller=keyed)
    await rig.hub.call(RemoveKey(key_name="a.2"), caller=keyed)
    await rig.restart()
    found = await rig.hub.call(ListKeys(), caller=await rig.caller("ada"))
    (key,) = found.keys
    shown = _run(["ssh-keygen", "-lf", str(pairs["ed25519"].path)]).decode().split()[1]
    assert (key.key_name, key.fingerprint) == ("main", shown)
    assert key.public_key == " ".join(pairs["ed25519"].public.split()[:2])
    assert await keys_of(rig, await rig.caller("bob")) == []
    page = await rig.hub.call(
        ReadHistory(channel="system.accounts", limit=1_000), caller=await rig.caller("boss")
    )
    types = [json.loads(line)["type"] for line in page.body.splitlines()]
    assert [t for t in types if ".key_" in t] == [
        "account.key_added", "account.key_added", "account.key_removed",
    ]  # fmt: skip


async def test_only_who_may_everything_for_good_or_logged_in_registers_a_key(
    rig: HubRig, ada: Caller, pairs: dict[str, Pair]
) -> None:
    call = AddKey(public_key=pairs["ed25519"].public)
    narrow = await rig.caller("ada", scopes=["tokens:write", "events:read", "events:write"])
    ending = await rig.caller("ada", expires_in_s=3_600)
    jwt = rig.hub.authenticate((await rig.hub.call(IssueJwt(), caller=ada)).token)
    for caller in (narrow, ending, jwt):
        with pytest.raises(Forbidden):
            await rig.hub.call(call, caller=caller)
    with pytest.raises(Unauthenticated):
        await rig.hub.call(call, caller=rig.hub.anonymous(is_local=True))
    assert await keys_of(rig, ada) == []
    await rig.hub.call(call, caller=ada)
    challenge = await begin(rig)
    found = await finish(rig, challenge, pairs["ed25519"].sign(challenge.message))
    login = rig.hub.authenticate(found.token)
    await rig.hub.call(AddKey(public_key=pairs["other"].public, key_name="two"), caller=login)
    # What is made from a login is not the login.
    child = rig.hub.authenticate((await rig.hub.call(IssueJwt(), caller=login)).token)
    with pytest.raises(Forbidden):
        await rig.hub.call(call, caller=child)


async def test_a_user_of_another_application_registers_none(
    rig: HubRig, pairs: dict[str, Pair]
) -> None:
    foreign = await rig.account("ext-user", kind="ext")
    confined = msgspec.structs.replace(await rig.account("eve"), is_confined=True)
    for caller in (foreign, confined):
        with pytest.raises(Forbidden, match="another application"):
            await rig.hub.call(AddKey(public_key=pairs["ed25519"].public), caller=caller)


async def test_who_may_not_handle_tokens_removes_no_key(rig: HubRig, keyed: Caller) -> None:
    narrow = await rig.caller("ada", scopes=["events:read"])
    with pytest.raises(Forbidden):
        await rig.hub.call(RemoveKey(key_name="main"), caller=narrow)
    assert await keys_of(rig, keyed) == ["main"]


async def test_an_account_of_another_world_registers_none(
    rig: HubRig, pairs: dict[str, Pair]
) -> None:
    admin = await bootstrap_admin(rig.hub, None)
    assert admin is not None
    made = await rig.hub.call(CreateWorld(id="other"), caller=rig.hub.authenticate(admin))
    caller = rig.hub.authenticate(made.token)
    with pytest.raises(Forbidden, match="main"):
        await rig.hub.call(AddKey(public_key=pairs["ed25519"].public), caller=caller)


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "a b", "x" * 65, ".a", "-a", "ä", "a\n"], ids=ascii
)
async def test_what_cannot_be_a_keys_name_is_refused(
    rig: HubRig, ada: Caller, pairs: dict[str, Pair], name: str
) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(AddKey(public_key=pairs["ed25519"].public, key_name=name), caller=ada)


async def test_an_account_has_so_many_keys(
    rig: HubRig, ada: Caller, pairs: dict[str, Pair]
) -> None:
    for n in range(KEYS_PER_ACCOUNT_MAX):
        await rig.hub.call(AddKey(public_key=pairs["p256"].public, key_name=f"k{n}"), caller=ada)
    with pytest.raises(BadRequest):
        await rig.hub.call(AddKey(public_key=pairs["p256"].public, key_name="more"), caller=ada)
    await rig.hub.call(AddKey(public_key=pairs["rsa"].public, key_name="k0"), caller=ada)


# --- what is a key, what is a signature ---------------------------------------


def test_what_is_not_admitted_as_a_key_is_malformed(pairs: dict[str, Pair]) -> None:
    line = pairs["ed25519"].public.strip()
    kind, blob, _ = line.split(" ", 2)
    raw = b64decode(blob)
    for text in (
        "", kind, blob, f"{kind} !!!!", f"{kind} {blob[:-8]}", f"{kind} {blob} x\n{line}",
        f'command="x" {line}', f"ssh-rsa {blob}", f"sk-ssh-ed25519@openssh.com {blob}",
        f"ssh-dss {blob}", f"{kind} {b64encode(raw + b'x').decode()}", f"{line} \u00e4",
        pairs["weak"].public, line + "x" * 5_000, f"{line} {'x' * 4_096}",
        pairs["ed25519"].path.read_text(),
    ):  # fmt: skip
        with pytest.raises(Malformed):
            parse_key(text)


def test_what_is_no_signature_is_malformed(pairs: dict[str, Pair]) -> None:
    key = parse_key(pairs["ed25519"].public)
    good = pairs["ed25519"].sign("text")
    assert is_signed(b"text", good, key=key, namespace=SPACE)
    raw = _raw(good)
    for changed in (
        b"", b"SSHSIG", raw[:-1], raw + b"x", b"SSHSIF" + raw[6:],
        raw[:6] + (2).to_bytes(4) + raw[10:], raw.replace(b"sha512", b"sha384"),
        raw[:10] + b"\xff" * 4 + raw[14:],
    ):  # fmt: skip
        with pytest.raises(Malformed):
            is_signed(b"text", _armored(changed), key=key, namespace=SPACE)
    for text in ("", "x", good.replace("BEGIN", "BEGUN"), good.replace("\nU", "\n!"), good * 200):
        with pytest.raises(Malformed):
            is_signed(b"text", text, key=key, namespace=SPACE)
    # Nothing may follow inside of it either.
    for kind, depth in (("ed25519", 1), ("p256", 1), ("p256", 2)):
        longer = _longer(_raw(pairs[kind].sign("text")), depth)
        with pytest.raises(Malformed):
            is_signed(b"text", _armored(longer), key=parse_key(pairs[kind].public), namespace=SPACE)
    # SHA-1 is no way to sign, whatever the key.
    rsa = parse_key(pairs["rsa"].public)
    old = _raw(pairs["rsa"].sign("text")).replace(b"\0\0\0\x0crsa-sha2-512", b"\0\0\0\x07ssh-rsa")
    with pytest.raises(Malformed):
        is_signed(b"text", _armored(old), key=rsa, namespace=SPACE)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_changed_signature_is_good(pairs: dict[str, Pair], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(_SIGNED)))
    if not _SIGNED[kind]:
        _SIGNED[kind] = _raw(pairs[kind].sign("text"))
    key = parse_key(pairs[kind].public)
    raw = bytearray(_SIGNED[kind])
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        assert not is_signed(b"text", _armored(bytes(raw)), key=key, namespace=SPACE)
    except Malformed:
        pass


_SIGNED: dict[str, bytes] = {"ed25519": b"", "p256": b"", "rsa": b""}


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.binary().map(lambda raw: _armored(raw)))
def test_any_text_is_refused_as_documented(pairs: dict[str, Pair], text: str) -> None:
    key = parse_key(pairs["ed25519"].public)
    try:
        assert not is_signed(b"text", text, key=key, namespace=SPACE)
    except Malformed:
        pass
    for line in (text, f"ssh-ed25519 {text}", f"ssh-rsa {b64encode(text.encode()).decode()}"):
        try:
            assert isinstance(parse_key(line), SshKey)
        except Malformed:
            pass


def _longer(raw: bytes, depth: int) -> bytes:
    """With one byte more at the end of its last field, or of that one's last field."""
    at = 10
    for _ in range(4):
        at += 4 + int.from_bytes(raw[at : at + 4])
    if depth == 2:
        inner = at + 4
        inner += 4 + int.from_bytes(raw[inner : inner + 4])
        size = int.from_bytes(raw[inner : inner + 4])
        raw = raw[:inner] + (size + 1).to_bytes(4) + raw[inner + 4 :]
    size = int.from_bytes(raw[at : at + 4])
    return raw[:at] + (size + 1).to_bytes(4) + raw[at + 4 :] + b"x"


def _raw(armored: str) -> bytes:
    return b64decode("".join(armored.strip().splitlines()[1:-1]))


def _armored(raw: bytes) -> str:
    body = b64encode(raw).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n"
