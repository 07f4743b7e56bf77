"""How far a client has come."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """It only grows."""

    NEW = 0
    CONNECTING = 1
    OPEN = 2
    FAILED = 3
    """Its connect was refused; the next command ends the connection."""
    OVER = 4
