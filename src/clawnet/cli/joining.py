"""What is remembered between two runs of `claw join`: a nonce by which the hub knows us again.

Beside the credentials, for this user only. It names no secret: only a hash of the link's.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from clawnet.cli.remembered import Remembered

FILE = "joining.json"
REMEMBERED_MAX = 20


class Joining:
    """The nonces of links that were not joined for sure yet."""

    def __init__(self, folder: Path) -> None:
        self._file = Remembered(folder / FILE)

    def nonce(self, secret: str) -> str:
        """The nonce for a link: the same until done(). Stored before it is used.

        Raises BadConfiguration: without a place to keep it and the token, nothing is redeemed.
        """
        nonces = self._load()
        name = _name(secret)
        if name not in nonces:
            nonces = dict(list(nonces.items())[-REMEMBERED_MAX + 1 :])
            nonces[name] = os.urandom(16).hex()
        self._file.save(nonces)
        return nonces[name]

    def done(self, secret: str) -> None:
        """The token is kept; the nonce is needed no more."""
        nonces = self._load()
        nonces.pop(_name(secret), None)
        self._file.save(nonces)

    def _load(self) -> dict[str, str]:
        kept = self._file.load()
        return {k: v for k, v in kept.items() if isinstance(v, str) and 16 <= len(v) <= 128}


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
