"""Which endpoint answers which HTTP path of the Centrifugo door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clawnet.doors.centrifugo import api, emulation, proxy, streams, uni

ROUTES: Mapping[str, Mapping[str, Any]] = {
    "/connection/http_stream": {"POST": streams.http_stream},
    "/connection/sse": {"GET": streams.sse_stream, "POST": streams.sse_stream_posted},
    "/connection/uni_http_stream": {"POST": uni.uni_http_stream},
    "/connection/uni_sse": {"GET": uni.uni_sse, "POST": uni.uni_sse_posted},
    "/emulation": {"POST": emulation.emulate},
    **api.ROUTES,
    **proxy.ROUTES,
}
