"""The public keys with which accounts log in: registered, listed and removed by the account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.identity import AddKey, KeyInfo, KeyList, ListKeys, RemoveKey
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import BadRequest, Forbidden, NotFound
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete
from clawnet.features.identity.proof import WORLD
from clawnet.features.identity.sshsig import Malformed, SshKey, parse_key
from clawnet.hub.accounts import EVENTS, need_account
from clawnet.hub.tokens import is_login
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.ports.log import State

KIND = "sshkey"
DEFAULT_KEY = "main"
KEYS_PER_ACCOUNT_MAX = 16

_KEY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `sshkey/<world>/<account>/<name>`. `line` as in a .pub file."""

    world: str
    account: str
    name: str
    line: str
    created_ms: int


class Keys:
    """Handlers of the calls for keys; holds them in memory."""

    def __init__(self, hub: Hub, *, is_taken: bool) -> None:
        """`is_taken`: whether this hub takes keys as a proof at all."""
        self._hub = hub
        self._is_taken = is_taken
        self._all: dict[tuple[str, str], dict[str, KeyRecord]] = {}

    def register(self) -> None:
        hub = self._hub
        hub.handle(AddKey, self.add, is_change=True)
        hub.handle(ListKeys, self.list_all)
        hub.handle(RemoveKey, self.remove, is_change=True)

    def load(self, state: State) -> None:
        """Take up what is stored."""
        for entry in state.scan(KIND):
            record = msgspec.json.decode(entry.value, type=KeyRecord)
            self._all.setdefault((record.world, record.account), {})[record.name] = record

    def find(self, world: str, account: str, name: str) -> SshKey | None:
        """The key of a living account."""
        record = self._all.get((world, account), {}).get(name)
        if record is None or not self._hub.directory.has_account(world, account):
            return None
        try:
            return parse_key(record.line)
        except Malformed:  # admitted once, by a version of the hub that took more
            return None

    async def add(self, call: AddKey, caller: Caller) -> KeyInfo:
        """By the account itself. Raises BadRequest, Forbidden, NotFound, Unauthenticated."""
        hub = self._hub
        account = need_account(caller)
        if not self._is_taken:
            raise NotFound(
                "This hub takes no keys as a proof.",
                next="Ask whoever runs it to put ssh-key into identity.proofs.",
            )
        if caller.world != WORLD:
            raise Forbidden(
                f"Logins by key are for accounts of {WORLD}.", next="Use tokens in this world."
            )
        if caller.is_confined or caller.kind == "ext":
            raise Forbidden(
                "A user of another application logs in with that application's tokens.",
                next="Use an account of this hub.",
            )
        # A key opens the whole account for as long as it is registered. A token that is narrower,
        # or that ends, must not turn into that; a login was proven by the account's owner.
        caller.need("*")
        if caller.expires_ms is not None and not is_login(hub, caller):
            raise Forbidden(
                "A token that ends cannot register a key, which does not.",
                next="Use a token without an end, or log in and use what the login gave you.",
            )
        if _KEY_NAME.match(call.key_name) is None:
            raise BadRequest(
                f"{ascii(call.key_name[:80])} cannot be a key's name.",
                next="Use 1 to 64 of A-Z, a-z, 0-9, _, - and dots.",
            )
        try:
            key = parse_key(call.public_key)
        except Malformed as why:
            raise BadRequest(
                f"That is no public key that can be registered: {why}.",
                next="Give the whole line of a .pub file, as ssh-keygen -t ed25519 makes it.",
            ) from None
        mine = self._all.get((caller.world, account), {})
        if call.key_name not in mine and len(mine) >= KEYS_PER_ACCOUNT_MAX:
            raise BadRequest(
                f"An account has at most {KEYS_PER_ACCOUNT_MAX} keys.",
                next="Remove one that is no longer used.",
            )
        record = KeyRecord(
            world=caller.world,
            account=account,
            name=call.key_name,
            line=key.line,
            created_ms=hub.clock.wall_ms(),
        )
        info = _info(record)
        told = {"account": account, "key": record.name, "fingerprint": key.fingerprint}
        await hub.change(
            put(KIND, _key_of(record), record),
            events=(hub.note(caller, EVENTS, "account.key_added", told),),
        )
        self._all.setdefault((caller.world, account), {})[record.name] = record
        return info

    async def list_all(self, call: ListKeys, caller: Caller) -> KeyList:
        account = need_account(caller)
        mine = self._all.get((caller.world, account), {})
        return KeyList(keys=[_info(mine[name]) for name in sorted(mine)])

    async def remove(self, call: RemoveKey, caller: Caller) -> Done:
        """In force at once. What was logged in with it before stays until it is revoked."""
        hub = self._hub
        account = need_account(caller)
        caller.need("tokens:write")
        mine = self._all.get((caller.world, account), {})
        record = mine.pop(call.key_name, None)
        if record is None:
            raise NotFound(f"There is no key {ascii(call.key_name[:80])}.")
        told = {"account": account, "key": record.name}
        await hub.change(
            Delete(f"{KIND}/{_key_of(record)}"),
            events=(hub.note(caller, EVENTS, "account.key_removed", told),),
            is_narrowing=True,
        )
        return Done()


def _key_of(record: KeyRecord) -> str:
    return f"{record.world}/{record.account}/{record.name}"


def _info(record: KeyRecord) -> KeyInfo:
    key = parse_key(record.line)
    return KeyInfo(
        key_name=record.name,
        type=key.type,
        fingerprint=key.fingerprint,
        public_key=record.line,
        created=rfc3339(record.created_ms),
    )
