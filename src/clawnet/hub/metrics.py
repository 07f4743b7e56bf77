"""What the hub counts, as Prometheus text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.hub.features import Row
from clawnet.ports.log import Indexed

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub


def render(hub: Hub, *, world: str | None = None) -> str:
    """The exposition of all metrics (text format 0.0.4).

    Lines with names in them are of one world, if one is given: they must not cross.
    """
    sessions = sum(len(peers) for peers in hub.sessions.values())
    subscriptions = sum(
        len(session.subscriptions) for peers in hub.sessions.values() for session in peers
    )
    engine = hub.storage.engine
    rows: list[Row] = [
        ("clawnet_ready", "gauge", "1 when the hub takes publishes.", float(hub.is_ready)),
        ("clawnet_published_total", "counter", "Publishes acknowledged.", hub.published),
        ("clawnet_refused_total", "counter", "Publishes refused.", hub.refused),
        ("clawnet_delivered_total", "counter", "Live deliveries.", hub.fanout.delivered),
        ("clawnet_sessions", "gauge", "Live connections.", sessions),
        ("clawnet_subscriptions", "gauge", "Subscriptions of live connections.", subscriptions),
        (
            "clawnet_slow_sessions",
            "gauge",
            "Connections that read slower than sent.",
            len(hub.slow),
        ),
        ("clawnet_log_last_seq", "gauge", "Newest seq in the log.", engine.last_seq),
        ("clawnet_log_first_seq", "gauge", "Oldest seq that may be retained.", engine.first_seq),
        (
            "clawnet_commit_queue_events",
            "gauge",
            "Events that wait for their commit.",
            hub.committer.queued_events if hub.state != "starting" else 0,
        ),
        ("clawnet_loop_lag_seconds", "gauge", "Lateness of the last tick.", hub.loop_lag_s),
        ("clawnet_loop_lag_max_seconds", "gauge", "Worst in the last minute.", hub.loop_lag_max_s),
    ]
    if isinstance(engine, Indexed):
        text = "Newest events that the indices do not hold yet."
        rows.append(("clawnet_index_lag_events", "gauge", text, engine.index_lag))
    for feature in hub.features:
        rows += feature.metrics()
    lines: list[str] = []
    for name, kind, text, value in rows:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value:g}"]
    for account_key, lag in hub.consumers.lags():
        if world is not None and not account_key.startswith(f"{world}/"):
            continue
        lines.append(f'clawnet_consumer_lag_events{{consumer="{account_key}"}} {lag}')
    return "\n".join(lines) + "\n"
