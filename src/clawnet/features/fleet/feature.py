"""Wires the parts of the fleet and gives them a life: worlds made, records written behind."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from clawnet.core.errors import ClawError
from clawnet.core.events import Stored
from clawnet.core.units import Delete, Put, Unit
from clawnet.features.fleet.enrolment import Enrolling
from clawnet.features.fleet.guests import Guests
from clawnet.features.fleet.records import ENROLMENT, Enrolment, Enrolments, Key
from clawnet.features.fleet.roster import Roster
from clawnet.features.fleet.secrets import MAIN, Secrets
from clawnet.features.fleet.settings import FleetSettings
from clawnet.features.fleet.tenants import make_worlds
from clawnet.hub.features import Feature, Row
from clawnet.hub.hub import Hub
from clawnet.hub.tokens import LOGIN_NAME
from clawnet.ports.log import State

WRITE_EVERY_S = 1.0
BEGIN_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class _Told(msgspec.Struct, frozen=True):
    """What an event of system.tokens or system.accounts says."""

    account: str = ""
    token: str = ""
    name: str = ""


_told = msgspec.json.Decoder(_Told)


class FleetFeature(Feature):
    """Who enrolled, and what each reports."""

    def __init__(self, settings: FleetSettings, *, folder: Path | None = None) -> None:
        """`folder`: where the tokens of the tenants' administrators are written."""
        self._settings = settings
        self._folder = folder
        self._hub: Hub
        self._secrets: Secrets
        self._enrolling: Enrolling
        self._guests: Guests
        self._roster: Roster
        self._enrolments = Enrolments()
        self._unwritten: dict[Key, None] = {}
        """Enrolments that have to be stored again."""
        self._watched: dict[str, Key] = {}
        """Tokens of enrolled accounts that enrolling did not give them, while nobody used one."""
        self._is_begun = False

    def register(self, hub: Hub) -> None:
        """Raises BadConfiguration for secrets that can be guessed or not be read."""
        self._hub = hub
        self._secrets = Secrets(
            self._settings,
            is_loopback=hub.is_loopback,
            nothing=hub.randomness.token_bytes(32),
        )
        self._roster = Roster(hub)
        self._enrolling = Enrolling(
            hub, self._settings, self._secrets, self._enrolments, self._roster
        )
        self._guests = Guests(hub, self._enrolling, self._enrolments)
        self._roster.register()
        self._enrolling.register()
        self._guests.register()

    async def load(self) -> None:
        """Take up who enrolled and what they said."""
        await self._hub.storage.read(self._load)
        self._enrolling.worlds.add(MAIN)

    def _load(self, state: State) -> None:
        self._enrolments.load(state)
        self._roster.load(state)
        for record in self._enrolments:
            for token in self._hub.directory.tokens_of(record.world, record.id):
                self._watch(record, token.id)

    async def run(self) -> None:
        """Make the worlds of the tenants, then write behind once a second."""
        while not self._is_begun:
            try:
                await self._begin()
            except ClawError as error:
                _log.warning("the worlds of tenants are not made yet: %s", error.message)
                await asyncio.sleep(BEGIN_EVERY_S)
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                await self._write()
            except ClawError as error:
                _log.warning("the fleet's records are not written yet: %s", error.message)

    async def _begin(self) -> None:
        await self._guests.end_masters()
        await make_worlds(
            self._hub, self._secrets.worlds, there=self._enrolling.worlds, folder=self._folder
        )
        self._is_begun = True

    async def flush(self) -> None:
        """The hub closes."""
        await self._write()

    async def _write(self) -> None:
        # When a token was used last is written once a minute only, and forgotten with its end.
        for token_id, (world, account) in list(self._watched.items()):
            if self._enrolling.was_used(token_id):
                self._has_own_token(world, account)
                self._watched.pop(token_id, None)
        await self._roster.write()
        keys, self._unwritten = self._unwritten, {}
        if not keys:
            return
        changes: list[Put | Delete] = []
        for world, account in keys:
            record = self._enrolments.find(world, account)
            gone = Delete(f"{ENROLMENT}/{world}/{account}")
            changes.append(gone if record is None else record.put)
        try:
            await self._hub.committer.commit(Unit(changes=tuple(changes)))
        except ClawError:
            self._unwritten = keys | self._unwritten
            raise

    def metrics(self) -> list[Row]:
        roster = self._roster
        return [
            ("clawnet_fleet_agents", "gauge", "Agents that enrolled or reported.", len(roster)),
            ("clawnet_fleet_reports_total", "counter", "Reports of agents.", roster.reports),
        ]

    def stored(self, stored: list[Stored]) -> None:
        """Follow which tokens enrolled accounts have, and which accounts end."""
        for event in stored:
            if event.channel == "system.tokens":
                self._token_told(event)
            elif event.channel == "system.accounts" and event.type in _ABOUT_ACCOUNTS:
                self._account_told(event)

    def _token_told(self, event: Stored) -> None:
        """Remember that an account used a token of its own before that cannot be seen any more."""
        told = _read(event)
        record = self._enrolments.find(event.world, told.account)
        if record is None or record.is_session or told.token in record.tokens:
            return
        # A login is a use; other tokens are looked up while they are there, and here at their end.
        is_login = event.type == "token.created" and told.name == LOGIN_NAME
        is_end = event.type == "token.revoked"
        if is_end:
            self._watched.pop(told.token, None)
        if is_login or (is_end and self._enrolling.was_used(told.token)):
            self._has_own_token(event.world, record.id)
        elif event.type == "token.created":
            self._watch(record, told.token)

    def _watch(self, record: Enrolment, token_id: str) -> None:
        if not (record.is_session or record.has_own_token or token_id in record.tokens):
            self._watched[token_id] = (record.world, record.id)

    def _has_own_token(self, world: str, account: str) -> None:
        record = self._enrolments.find(world, account)
        if record is not None and not record.has_own_token:
            self._enrolments.add(msgspec.structs.replace(record, has_own_token=True))
            self._unwritten[world, account] = None

    def _account_told(self, event: Stored) -> None:
        told = _read(event)
        self._roster.changed_account(event.world, told.account)
        is_there = self._hub.directory.has_account(event.world, told.account)
        if not is_there and self._enrolments.remove(event.world, told.account):
            key = (event.world, told.account)
            self._unwritten[key] = None
            self._watched = {token: whose for token, whose in self._watched.items() if whose != key}


_ABOUT_ACCOUNTS = ("account.updated", "account.deleted")


def _read(event: Stored) -> _Told:
    try:
        return _told.decode(event.data)
    except msgspec.MsgspecError:  # a master imported it: it says nothing of an account here
        return _Told()
