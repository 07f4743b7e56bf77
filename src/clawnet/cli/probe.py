"""Is the hub of this machine ready? For HEALTHCHECK: `python -m clawnet.cli.probe`.

Exit code 0 for a hub that can store, 1 for any other answer or none. Where it
listens is read from the same environment and file as the hub's own settings:
flags of `claw up` are not seen from here. The certificate is not checked: it
is made for a name that others use, and nothing is sent that needs to be kept.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

from clawnet.app.config import load
from clawnet.cli.places import places
from clawnet.core.errors import ClawError

TIMEOUT_S = 2.5


def is_ready(host: str, port: int, *, is_tls: bool) -> bool:
    """Ask /readyz once."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if is_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        # What a hub answers to without further settings.
        connection.request("GET", "/readyz", headers={"Host": f"localhost:{port}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """The exit code for HEALTHCHECK."""
    try:
        settings = load(flags={}, environment=os.environ, file=places(None).config)
    except ClawError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)
    return 0 if is_ready(host, settings.port, is_tls=settings.tls_cert is not None) else 1


if __name__ == "__main__":
    sys.exit(main())
