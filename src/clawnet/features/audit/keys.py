"""The key that signs checkpoints: Ed25519, kept in the data folder for this user alone."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from clawnet.core.audit import signed_text
from clawnet.core.errors import BadConfiguration

KEY = "audit.key"
PUBLIC_KEY = "audit.pub"
SEED_BYTES = 32


class Key:
    """Signs, and says who it is."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        raw = self._private.public_key().public_bytes_raw()
        self.public = base64.b64encode(raw).decode()
        self.fingerprint = fingerprint_of(raw)

    @classmethod
    def in_folder(cls, folder: Path) -> Key:
        """The folder's key, made at the first start. Raises BadConfiguration if it is damaged."""
        path = folder / KEY
        try:
            seed = bytes.fromhex(path.read_text().strip())
        except FileNotFoundError:
            seed = os.urandom(SEED_BYTES)
            # Beside its place first: a hub that is killed here leaves no key that is damaged.
            beside = folder / f".{KEY}.new"
            beside.unlink(missing_ok=True)
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(f"{seed.hex()}\n")
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        except (OSError, ValueError):
            seed = b""
        if len(seed) != SEED_BYTES:
            # Never replaced silently: checkpoints of another key prove nothing about these.
            raise BadConfiguration(
                f"{path} is damaged, and without it the audit chain cannot be signed.",
                next="Restore it from a backup; deleting it makes a new key, which the chain's old"
                " checkpoints are not signed with.",
            )
        key = cls(seed)
        (folder / PUBLIC_KEY).write_text(f"{key.public}\n")
        return key

    def signed(self, record: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is signed by this key."""
        signature = record.get("signature")
        check = Verifier(self._private.public_key())
        return isinstance(signature, str) and check(signed_text(record), signature)

    def sign(self, text: bytes) -> str:
        """A signature in base64."""
        return base64.b64encode(self._private.sign(text)).decode()


def fingerprint_of(raw: bytes) -> str:
    """What checkpoints call a public key."""
    return hashlib.sha256(raw).hexdigest()[:16]


def verifier(public: str) -> Verifier:
    """What checks signatures of a public key in base64. Raises ValueError if it is none."""
    return Verifier(Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True)))


class Verifier:
    """Whether a text was signed by this key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def __call__(self, text: bytes, signature: str) -> bool:
        try:
            self._key.verify(base64.b64decode(signature, validate=True), text)
        except (InvalidSignature, ValueError):
            return False
        return True
