"""OpenSSH's public keys and signatures (PROTOCOL.sshsig), as ssh-keygen writes them. Pure.

What is admitted is narrow: Ed25519, ECDSA on NIST's curves, RSA of 2048 bits or more with
SHA-2; no certificates, and no keys of security devices, whose signatures hold more than this.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256, sha512
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey

KEY_MAX_CHARS = 4_096
ARMORED_MAX_CHARS = 5_000
RSA_MIN_BITS = 2_048
RSA_MAX_BITS = 8_192
"""A larger one would only cost the time to verify it."""

_MAGIC = b"SSHSIG"
_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"
_HASHES = {b"sha256": sha256, b"sha512": sha512}
_CURVES = {
    "ecdsa-sha2-nistp256": b"nistp256",
    "ecdsa-sha2-nistp384": b"nistp384",
    "ecdsa-sha2-nistp521": b"nistp521",
}
_ALGORITHMS = {
    "ssh-ed25519": {b"ssh-ed25519"},
    "ssh-rsa": {b"rsa-sha2-256", b"rsa-sha2-512"},
    **{name: {name.encode()} for name in _CURVES},
}
"""By the key's type: how it may sign. ssh-rsa as a signature would be SHA-1."""


class Malformed(Exception):
    """This is no key, or no signature, that is admitted; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKey:
    """A public key. `blob` is its wire form, which is what two equal ones have in common."""

    type: str
    blob: bytes

    @property
    def line(self) -> str:
        """As in a .pub file, without its comment."""
        return f"{self.type} {b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l shows it."""
        return "SHA256:" + b64encode(sha256(self.blob).digest()).rstrip(b"=").decode()


def parse_key(text: str) -> SshKey:
    """A line of a .pub file. Raises Malformed."""
    if len(text) > KEY_MAX_CHARS:
        raise Malformed("it is too long for a public key")
    words = text.split()
    if not text.isascii() or len(words) < 2 or "\n" in text.strip():
        raise Malformed("it is not one line of a .pub file")
    if words[0] not in _ALGORITHMS:
        raise Malformed(f"its type is none of {', '.join(_ALGORITHMS)}")
    key = SshKey(type=words[0], blob=_unbase64(words[1]))
    _loaded(key)
    return key


def is_signed(message: bytes, armored: str, *, key: SshKey, namespace: str) -> bool:
    """Whether `armored` is this key's signature of the message. Raises Malformed.

    A good signature of another key, for another namespace or of another message is False.
    """
    from cryptography.exceptions import InvalidSignature

    outer = _Reader(_unarmored(armored))
    if outer.take(len(_MAGIC)) != _MAGIC or outer.number() != 1:
        raise Malformed("it is no SSH signature of version 1")
    blob, space, reserved, hash_name, signature = [outer.string() for _ in range(5)]
    outer.end()
    hashed = _HASHES.get(hash_name)
    if hashed is None:
        raise Malformed("it hashes with neither sha256 nor sha512")
    inner = _Reader(signature)
    algorithm, raw = inner.string(), inner.string()
    inner.end()
    if algorithm not in _ALGORITHMS[key.type]:
        return False
    if not hmac.compare_digest(blob, key.blob) or space != namespace.encode():
        return False
    signed = _MAGIC + b"".join(
        _string(part) for part in (space, reserved, hash_name, hashed(message).digest())
    )
    try:
        _verify(_loaded(key), algorithm, raw, signed)
    except InvalidSignature:
        return False
    return True


def _verify(loaded: PublicKey, algorithm: bytes, raw: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if isinstance(loaded, rsa.RSAPublicKey):
        digest = hashes.SHA256() if algorithm == b"rsa-sha2-256" else hashes.SHA512()
        # OpenSSH may leave leading zeros out.
        raw = raw.rjust((loaded.key_size + 7) // 8, b"\0")
        loaded.verify(raw, signed, padding.PKCS1v15(), digest)
    elif isinstance(loaded, ec.EllipticCurvePublicKey):
        pair = _Reader(raw)
        numbers = [int.from_bytes(pair.string()) for _ in range(2)]
        pair.end()
        of_size = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        digest_of_curve = of_size[loaded.curve.key_size]
        loaded.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(digest_of_curve))
    else:
        loaded.verify(raw, signed)


def _loaded(key: SshKey) -> PublicKey:
    """The key as `cryptography` has it. Raises Malformed."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    if _Reader(key.blob).string() != key.type.encode():
        raise Malformed("it says two different types")
    try:
        loaded = load_ssh_public_key(key.line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("it is no public key") from None
    if isinstance(loaded, rsa.RSAPublicKey):
        if not RSA_MIN_BITS <= loaded.key_size <= RSA_MAX_BITS:
            raise Malformed(f"an RSA key needs {RSA_MIN_BITS} to {RSA_MAX_BITS} bits")
        return loaded
    if isinstance(loaded, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        return loaded
    raise Malformed("its type is not admitted")


class _Reader:
    """The fields of RFC 4251, section 5. Raises Malformed at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, n: int) -> bytes:
        piece = self._data[self._at : self._at + n]
        if len(piece) != n:
            raise Malformed("it ends too early")
        self._at += n
        return piece

    def number(self) -> int:
        return int.from_bytes(self.take(4))

    def string(self) -> bytes:
        return self.take(self.number())

    def end(self) -> None:
        if self._at != len(self._data):
            raise Malformed("something follows its end")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _unarmored(text: str) -> bytes:
    if len(text) > ARMORED_MAX_CHARS:
        raise Malformed("it is too long for a signature")
    text = text.strip()
    if not text.startswith(_BEGIN) or not text.endswith(_END):
        raise Malformed("it is no armored SSH signature")
    return _unbase64("".join(text[len(_BEGIN) : -len(_END)].split()))


def _unbase64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("it is not base64") from None
