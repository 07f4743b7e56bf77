"""Names for log epochs."""

from __future__ import annotations

from clawnet.ports.clock import Randomness


def new_epoch(randomness: Randomness) -> str:
    """Twelve hexadecimal digits that no other epoch of any log has."""
    return randomness.token_bytes(6).hex()
