"""Publishing that is acknowledged after fsync, and reading it back from the log."""

import secrets

from benchmarks import load
from benchmarks.peers import Missing, Server, start
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

HTTP_CLIENTS = 32
WS_WINDOW = 2048


def rows(plan: Plan) -> list[Row]:
    """HTTP with 32 clients, one pipelined WebSocket, replay to one WebSocket."""
    rate: list[float] = []
    p99: list[float] = []
    acked: list[float] = []
    replayed: list[float] = []
    note = ""
    try:
        server = start("hub sqlite", plan.folder / "publish")
    except Missing as reason:
        plan.say(f"no publish rows: {reason}")
        note = str(reason)
    else:
        try:
            for number in range(plan.rounds):
                plan.say(f"publish round {number + 1}/{plan.rounds}")
                _publish(plan, server, rate, p99, acked)
            _replay(plan, server, replayed)
        except load.LoadFailed as error:
            plan.say(str(error))
            note = str(error)
        finally:
            server.close()
    return [
        compare(
            f"durable publish, HTTP, {HTTP_CLIENTS} clients",
            unit="events/s",
            ours=rate,
            target=Target(of="value", least=20_000),
            note=note,
        ),
        compare(
            f"durable publish p99, HTTP, {HTTP_CLIENTS} clients",
            unit="ms",
            ours=p99,
            target=Target(of="value", most=10),
            note=note,
        ),
        compare(
            "durable publish, one WebSocket, pipelined",
            unit="events/s",
            ours=acked,
            target=Target(of="value", least=60_000),
            note=note,
        ),
        compare(
            f"replay of {plan.replay_events:,} events to one WebSocket",
            unit="events/s",
            ours=replayed,
            target=Target(of="value", least=300_000),
            note=note,
        ),
    ]


def _publish(
    plan: Plan, server: Server, rate: list[float], p99: list[float], acked: list[float]
) -> None:
    result = load.run(
        "http_publish",
        server,
        clients=HTTP_CLIENTS,
        seconds=plan.publish_s,
        key=secrets.token_hex(6),
        topic="http",
    )
    rate.append(result["acked"] / result["wall_s"])
    p99.append(result["latency_ms"]["p99"])
    result = load.run(
        "ws_publish",
        server,
        seconds=plan.publish_s,
        window=WS_WINDOW,
        key=secrets.token_hex(6),
        topic="ws",
    )
    acked.append(result["acked"] / result["wall_s"])


def _replay(plan: Plan, server: Server, replayed: list[float]) -> None:
    plan.say(f"replay: storing {plan.replay_events:,} events")
    load.run("ws_publish", server, count=plan.replay_events, window=WS_WINDOW, topic="replay")
    for number in range(plan.rounds):
        plan.say(f"replay round {number + 1}/{plan.rounds}")
        result = load.run("replay", server, events=plan.replay_events, topic="replay")
        replayed.append(result["events"] / result["wall_s"])
