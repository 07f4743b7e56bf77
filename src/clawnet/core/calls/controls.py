"""What masters change while the hub runs."""

from __future__ import annotations

import msgspec

PATTERNS_MAX = 200
PATTERN_MAX_CHARS = 200


class ReadControls(msgspec.Struct, frozen=True, kw_only=True):
    """The values in force in the caller's world. For masters. Answered with ControlsInfo."""


class ChangeControls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change what is given; it outlives a restart and wins over the configuration. For masters.

    `auto_create`: whether writing to or joining an unknown room makes it. Commands with a text of
    `command_denylist` in them are rejected, those of `command_riskylist` wait for a master.
    Answered with ControlsInfo. Raises Forbidden, BadRequest.
    """

    auto_create: bool | None = None
    command_denylist: list[str] | None = None
    command_riskylist: list[str] | None = None


class ControlsInfo(msgspec.Struct, frozen=True, kw_only=True):
    auto_create: bool
    command_denylist: list[str]
    command_riskylist: list[str]
