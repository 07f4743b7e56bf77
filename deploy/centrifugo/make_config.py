"""Prints the configuration of a Centrifugo v5 in front of a Clawnet hub.

    python deploy/centrifugo/make_config.py > deploy/centrifugo/config.json
    python deploy/centrifugo/make_config.py --hub http://claw_api:3000 --redis redis://redis:6379

It holds no secret: those come from the environment (docker-compose.yml). Nothing but the standard
library is needed. What is not said here is Centrifugo's default, which is to refuse: a channel
without a namespace, a publish without the proxy, history for whoever does not follow.
"""

# ruff: noqa: INP001 - a program beside what it makes, and no package
import argparse
import json
import sys
from typing import Any

HISTORY_EVENTS = 100
HISTORY_TTL = "3600s"
PROXY_TIMEOUT = "3s"
"""Centrifugo's own is 1 s; a publish is answered when it is on the hub's disk."""


def namespace(name: str, *, publish: bool = True, **more: Any) -> dict[str, Any]:
    """The hub is asked about every subscription and every publish."""
    return {"name": name, "proxy_subscribe": True, "proxy_publish": publish, **more}


def configuration(*, hub: str, redis: str) -> dict[str, Any]:
    """The whole configuration."""
    hub = hub.rstrip("/")
    return {
        "engine": "redis",
        "redis_address": redis,
        "health": True,
        "allowed_origins": [],
        # As the hub's names are written; with the default (:) no namespace would ever be found,
        # and the rules below would hold for nothing.
        "channel_namespace_boundary": ".",
        "client_insecure": False,
        "allow_anonymous_connect_without_token": False,
        "proxy_connect_endpoint": f"{hub}/proxy/connect",
        "proxy_connect_timeout": PROXY_TIMEOUT,
        "proxy_refresh_endpoint": f"{hub}/proxy/refresh",
        "proxy_refresh_timeout": PROXY_TIMEOUT,
        "proxy_subscribe_endpoint": f"{hub}/proxy/subscribe",
        "proxy_subscribe_timeout": PROXY_TIMEOUT,
        "proxy_publish_endpoint": f"{hub}/proxy/publish",
        "proxy_publish_timeout": PROXY_TIMEOUT,
        # What /proxy/connect says of a connection's token comes back with every question.
        "proxy_include_connection_meta": True,
        "namespaces": [
            namespace(
                "public",
                history_size=HISTORY_EVENTS,
                history_ttl=HISTORY_TTL,
                force_recovery=True,
                allow_history_for_subscriber=True,
            ),
            # The hub looks who is there when a channel is locked.
            namespace("agent", presence=True),
            namespace("room"),
            namespace("dm"),
            namespace("system", publish=False),
        ],
    }


def main() -> None:
    """Print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hub", default="http://claw_api:3000", help="the hub's address")
    parser.add_argument("--redis", default="redis://redis:6379", help="Centrifugo's own Redis")
    chosen = parser.parse_args()
    json.dump(configuration(hub=chosen.hub, redis=chosen.redis), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
