"""Which certificates a client trusts: the system's, and the private CA somebody named.

`CLAWNET_CA_FILE` names a PEM file whose certificates are trusted beside the
system's; OpenSSL's own `SSL_CERT_FILE` and `SSL_CERT_DIR` take the system's
place, as everywhere.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

from clawnet.client.errors import HubUnreachable
from clawnet.core.errors import BadConfiguration

CA_FILE = "CLAWNET_CA_FILE"


def tls_context() -> ssl.SSLContext:
    """What every https:// and wss:// connection of a client uses. Raises BadConfiguration."""
    names = (CA_FILE, "SSL_CERT_FILE", "SSL_CERT_DIR")
    return _made(*(os.environ.get(name, "") for name in names))


def untrusted(url: str, error: ssl.SSLCertVerificationError) -> HubUnreachable:
    """The hub's certificate was refused, and what to do about it."""
    return HubUnreachable(
        f"The certificate of {url} is not trusted ({error.verify_message}).",
        next=f"If it is yours, name the CA that signed it: {CA_FILE}=/path/to/ca.pem.",
        is_refused=True,
    )


@lru_cache(maxsize=4)
def _made(ca_file: str, *_system: str) -> ssl.SSLContext:
    # Reading a system's hundred certificates costs some 20 ms, a connection 1: made once.
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            reason = "it is no PEM file" if isinstance(error, ssl.SSLError) else error.strerror
            raise BadConfiguration(
                f"{CA_FILE}: {ca_file} cannot be used ({reason}).", next="Name a CA's PEM file."
            ) from None
    return context
