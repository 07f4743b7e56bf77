"""What is remembered between two runs of `claw join`: a nonce by which the hub knows us again.

Beside the credentials, for this user only. It names no secret: only a hash of the link's.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from clawnet.cli.places import write_private
from clawnet.core.errors import BadConfiguration

FILE = "joining.json"
REMEMBERED_MAX = 20


class Joining:
    """The nonces of links that were not joined for sure yet."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def nonce(self, secret: str) -> str:
        """The nonce for a link: the same until done(). Stored before it is used.

        Raises BadConfiguration: without a place to keep it and the token, nothing is redeemed.
        """
        nonces = self._load()
        name = _name(secret)
        if name not in nonces:
            nonces = dict(list(nonces.items())[-REMEMBERED_MAX + 1 :])
            nonces[name] = os.urandom(16).hex()
        write_private(self._path, json.dumps(nonces, indent=2))
        return nonces[name]

    def done(self, secret: str) -> None:
        """The token is kept; the nonce is needed no more."""
        nonces = self._load()
        nonces.pop(_name(secret), None)
        if nonces:
            write_private(self._path, json.dumps(nonces, indent=2))
        else:
            self._path.unlink(missing_ok=True)

    def _load(self) -> dict[str, str]:
        try:
            value = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise BadConfiguration(
                f"{self._path} cannot be read ({error.strerror}).", next="Check its owner and mode."
            ) from None
        except ValueError:
            return {}
        if not isinstance(value, dict):
            return {}
        return {k: v for k, v in value.items() if isinstance(v, str) and 16 <= len(v) <= 128}


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
