"""Settings for all tests. Fixtures belong to the directory that uses them."""

import functools
import os
import ssl
from typing import Any

import httpx._transports.default as httpx_transport
from httpx import create_ssl_context
from hypothesis import settings

# No deadline: a busy machine is not a bug. The blob lets a failure be replayed elsewhere.
settings.register_profile("clawnet", deadline=None, print_blob=True)
settings.load_profile("clawnet")

ASKED_FOR = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@functools.cache
def usual_context() -> ssl.SSLContext:
    return create_ssl_context(trust_env=False)


def context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    is_asked = trust_env and any(os.environ.get(name) for name in ASKED_FOR)
    if verify is True and cert is None and not is_asked:
        return usual_context()
    return create_ssl_context(verify, cert, trust_env)


# httpx reads all certificates of the world for every client, also for one that speaks no TLS: it
# took 25 ms of each of two thousand tests. They are read once, and who says more is heard.
httpx_transport.create_ssl_context = context  # type: ignore[attr-defined]
