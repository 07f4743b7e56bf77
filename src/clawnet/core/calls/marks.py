"""How far an account has acknowledged what it was given: asked by doors, in the hub's voice."""

from __future__ import annotations

import msgspec


class OpenMarks(msgspec.Struct, frozen=True, kw_only=True):
    """The marks of an account of the caller's world. Answered with its core.marks.Marks, which
    all that ask share: what is put there is stored behind, within MARKS_EVERY_S."""

    account: str


MARKS_EVERY_S = 0.1
