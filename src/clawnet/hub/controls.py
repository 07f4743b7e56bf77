"""What masters change while the hub runs; it outlives a restart, and each world has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.controls import (
    PATTERN_MAX_CHARS,
    PATTERNS_MAX,
    ChangeControls,
    ControlsInfo,
    ReadControls,
)
from clawnet.core.errors import BadRequest
from clawnet.hub.accounts import need_master
from clawnet.hub.features import Feature
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.ports.log import State

EVENTS = "system.config"
_KIND = "controls"


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """The values in force."""

    auto_create: bool = True
    command_denylist: tuple[str, ...] = ()
    command_riskylist: tuple[str, ...] = ()


class ChosenControls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What masters of a world chose; None is what the configuration says. As stored."""

    auto_create: bool | None = None
    command_denylist: tuple[str, ...] | None = None
    command_riskylist: tuple[str, ...] | None = None


class ControlBoard(Feature):
    """Handlers of core.calls.controls; features read of() when they decide."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._defaults = Controls()
        self._chosen: dict[str, ChosenControls] = {}
        self._in_force: dict[str, Controls] = {}

    def register(self, hub: Hub) -> None:
        hub.handle(ReadControls, self.read)
        # One after the other, so that none is computed from values that another replaces.
        hub.handle(ChangeControls, self.change, is_change=True)

    async def load(self) -> None:
        """Take up what is stored."""
        await self._hub.storage.read(self._load)

    def _load(self, state: State) -> None:
        for entry in state.scan(_KIND):
            world = entry.key.partition("/")[2]
            self._chosen[world] = msgspec.json.decode(entry.value, type=ChosenControls)

    def default(
        self,
        *,
        auto_create: bool | None = None,
        command_denylist: list[str] | None = None,
        command_riskylist: list[str] | None = None,
    ) -> None:
        """What holds where no master chose otherwise, from the settings of a feature."""
        found = self._defaults
        self._defaults = Controls(
            auto_create=found.auto_create if auto_create is None else auto_create,
            command_denylist=(
                found.command_denylist if command_denylist is None else tuple(command_denylist)
            ),
            command_riskylist=(
                found.command_riskylist if command_riskylist is None else tuple(command_riskylist)
            ),
        )
        self._in_force.clear()

    def of(self, world: str) -> Controls:
        """What is in force in a world."""
        found = self._in_force.get(world)
        if found is None:
            chosen = self._chosen.get(world)
            found = self._in_force[world] = (
                self._defaults if chosen is None else _over(self._defaults, chosen)
            )
        return found

    async def read(self, call: ReadControls, caller: Caller) -> ControlsInfo:
        need_master(caller, "accounts:read")
        return _info(self.of(caller.world))

    async def change(self, call: ChangeControls, caller: Caller) -> ControlsInfo:
        """Raises Forbidden, BadRequest, DiskFull."""
        need_master(caller, "accounts:write")
        before = self._chosen.get(caller.world, ChosenControls())
        after = ChosenControls(
            auto_create=before.auto_create if call.auto_create is None else call.auto_create,
            command_denylist=_patterns(
                call.command_denylist, before.command_denylist, name="command_denylist"
            ),
            command_riskylist=_patterns(
                call.command_riskylist, before.command_riskylist, name="command_riskylist"
            ),
        )
        given = {name: value for name, value in _members(call) if value is not None}
        if not given:
            raise BadRequest("There is nothing to change.", next="Give at least one setting.")
        if after != before:
            hub = self._hub
            note = hub.note(caller, EVENTS, "system.config_changed", {"changed": given})
            await hub.change(put(_KIND, caller.world, after), events=(note,))
            self._chosen[caller.world] = after
            self._in_force.pop(caller.world, None)
        return _info(self.of(caller.world))


def _over(defaults: Controls, chosen: ChosenControls) -> Controls:
    given = {name: value for name, value in _members(chosen) if value is not None}
    return msgspec.structs.replace(defaults, **given)


def _members(values: msgspec.Struct) -> list[tuple[str, object]]:
    return [(name, getattr(values, name)) for name in values.__struct_fields__]


def _patterns(
    given: list[str] | None, before: tuple[str, ...] | None, *, name: str
) -> tuple[str, ...] | None:
    if given is None:
        return before
    if len(given) > PATTERNS_MAX:
        raise BadRequest(f"{name} holds at most {PATTERNS_MAX} texts.", next="Give fewer.")
    for text in given:
        # An empty text is in every command.
        if not text.strip() or len(text) > PATTERN_MAX_CHARS:
            raise BadRequest(
                f"A text of {name} is empty or longer than {PATTERN_MAX_CHARS} characters.",
                next="Give words that stand in a command.",
            )
    return tuple(dict.fromkeys(given))


def _info(controls: Controls) -> ControlsInfo:
    return ControlsInfo(
        auto_create=controls.auto_create,
        command_denylist=list(controls.command_denylist),
        command_riskylist=list(controls.command_riskylist),
    )
