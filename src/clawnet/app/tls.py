"""The certificate: read, tried and replaced while the hub runs.

A pair is tried before it is used, by a handshake with itself in memory, in
which the client trusts this one certificate: what a client would refuse (a
wrong key, a certificate that has expired) is told before the hub listens, and
a reload that would break it changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
import time
from pathlib import Path
from typing import NamedTuple

from clawnet.core.errors import BadConfiguration

FILE_MAX_BYTES = 1 << 20
SOON_S = 14 * 86_400.0
_EXPIRED, _NOT_YET = 10, 9
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID."""
_CERTIFICATE = (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----")

_log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """A certificate chain and its key that fit together; `warnings` are sentences."""

    context: ssl.SSLContext
    expires_at_s: float
    warnings: tuple[str, ...]


class Certificate:
    """The pair of two files. `context` is for handshakes that begin now."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert.expanduser()
        self._key = key.expanduser()
        self._pair = load_pair(self._cert, self._key)
        self._warn()

    @property
    def context(self) -> ssl.SSLContext:
        return self._pair.context

    async def reload(self) -> bool:
        """Read both files anew; False, and a line in the log, if the old pair stays."""
        try:
            self._pair = await asyncio.to_thread(load_pair, self._cert, self._key)
        except BadConfiguration as error:
            _log.error("the certificate stays as it was: %s", error.message)
            return False
        _log.info("the certificate was read anew")
        self._warn()
        return True

    def _warn(self) -> None:
        for warning in self._pair.warnings:
            _log.warning("%s", warning)


def load_pair(cert: Path, key: Path) -> Pair:
    """Read and try a pair of PEM files. Raises BadConfiguration in one sentence."""
    chain = _read(cert, "certificate")
    _read(key, "key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        # Without a password of its own, OpenSSL would ask the terminal for one.
        context.load_cert_chain(cert, key, password=_no_password)
    except _EncryptedError:
        raise BadConfiguration(
            f"The key {key} is encrypted, and nobody is there to type its password.",
            next="Give --tls-key a key that is not encrypted, readable for this user only.",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"The key {key} does not belong to the certificate {cert}"
        else:
            problem = f"{cert} and {key} are no certificate and key in PEM form"
        raise BadConfiguration(
            f"{problem}.", next="Give the two files that belong together."
        ) from None
    except OSError as error:
        raise _unreadable(key, "key", error) from None
    expires_at_s = _tried(context, _first(chain), cert)
    warnings = []
    if stat.S_IMODE(key.stat().st_mode) & 0o007:
        # A group that may read it is how some systems share keys.
        warnings.append(f"The key {key} can be read by others: run chmod o= {key}.")
    left_s = expires_at_s - time.time()
    if left_s < SOON_S:
        warnings.append(f"The certificate {cert} expires in {left_s / 86_400:.0f} days.")
    return Pair(context, expires_at_s, tuple(warnings))


class _EncryptedError(Exception):
    """OpenSSL asked for a password."""


def _no_password() -> str:
    raise _EncryptedError


def _read(path: Path, what: str) -> bytes:
    try:
        # A pipe would be waited for without end.
        if not path.is_file() and path.exists():
            raise BadConfiguration(f"The {what} {path} is no file.", next="Give a PEM file.")
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES)
    except OSError as error:
        raise _unreadable(path, what, error) from None


def _unreadable(path: Path, what: str, error: OSError) -> BadConfiguration:
    return BadConfiguration(
        f"The {what} {path} cannot be read ({error.strerror}).",
        next="Check the path, and that the hub's user may read it.",
    )


def _first(chain: bytes) -> bytes:
    """The leaf certificate of a PEM chain, as DER."""
    begin, end = _CERTIFICATE
    _, _, rest = chain.partition(begin)
    body, _, _ = rest.partition(end)
    return ssl.PEM_cert_to_DER_cert((begin + body + end).decode("latin-1"))


def _tried(server: ssl.SSLContext, leaf: bytes, path: Path) -> float:
    """Let a client meet the certificate; when it expires. Raises BadConfiguration."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=leaf)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(there, back)
    answering = server.wrap_bio(back, there, server_side=True)
    try:
        # TLS 1.3 takes two rounds, 1.2 three.
        for _ in range(4):
            for side in (asking, answering):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError as error:
        reasons = {_EXPIRED: "has expired", _NOT_YET: "is not valid yet"}
        reason = reasons.get(error.verify_code) or f"is no server's ({error.verify_message})"
        raise BadConfiguration(
            f"The certificate {path} {reason}.", next="Renew it, or check this machine's clock."
        ) from None
    except ssl.SSLError as error:
        raise BadConfiguration(
            f"No client can use the certificate {path} ({error.reason or error}).",
            next="Make a new one, with an RSA key of 2,048 bits or an EC key.",
        ) from None
    found = asking.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))
