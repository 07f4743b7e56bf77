"""What a machine says of itself: load, memory, disk, network, and how the link to the hub does."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from dataclasses import dataclass
from typing import Any

import psutil

from clawnet import __version__

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LinkFacts:
    """How the link to the hub does. The sidecar keeps it up to date."""

    is_connected: bool = False
    connects: int = 0
    lost: int = 0
    last_lost_ms: int | None = None
    latency_ms: float | None = None
    last_report_ms: int | None = None

    def as_usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {"connects": self.connects, "reconnects": max(0, self.connects - 1)}
        if self.last_lost_ms is not None:
            usage["last_lost_ms"] = self.last_lost_ms
        if self.latency_ms is not None:
            usage["latency_ms"] = round(self.latency_ms, 1)
        return usage


def specs() -> dict[str, Any]:
    """What stays the same while the machine runs. Blocking for a moment."""
    usage()  # the first call only begins to measure the processor
    return {
        "hostname": socket.gethostname(),
        "os": platform.system().lower(),
        "os_release": platform.release(),
        "arch": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "python": platform.python_version(),
        "version": __version__,
    }


def usage() -> dict[str, Any]:
    """What changes. `cpu_percent` is since the last call. Blocking for a moment.

    What this system does not tell is left out: a container may hide its load or network.
    """
    found: dict[str, Any] = {}
    for read in (_processor, _memory, _disk, _load, _uptime, _network):
        try:
            found |= read()
        except Exception:  # psutil reads what systems hide in many ways
            logger.debug("%s is not known here", read.__name__, exc_info=True)
    return found


def _processor() -> dict[str, Any]:
    return {"cpu_percent": psutil.cpu_percent(interval=None)}


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {"ram_percent": memory.percent, "ram_used_bytes": memory.total - memory.available}


def _disk() -> dict[str, Any]:
    disk = psutil.disk_usage("/")
    return {"disk": {"percent": disk.percent, "free_bytes": disk.free}}


def _load() -> dict[str, Any]:
    return {"load": [round(value, 2) for value in psutil.getloadavg()]}


def _uptime() -> dict[str, Any]:
    return {"uptime_s": max(0, round(time.time() - psutil.boot_time()))}


def _network() -> dict[str, Any]:
    counted = psutil.net_io_counters()
    return {"network": {"sent_bytes": counted.bytes_sent, "received_bytes": counted.bytes_recv}}
