"""Publish to deliver under load: 200,000 deliveries a second to 100 subscribers."""

from collections import defaultdict

from benchmarks import load
from benchmarks.peers import Missing, together
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

DELIVERIES_PER_S = 200_000
SUBSCRIBERS = 100
SAMPLED = 4  # subscribers whose arrivals are timed, spread over the crowd
PEER = "nats-server"
# ours -> percentile -> the most it may be of the peer's
TARGETS = {"hub memory": {"p50": 1.2, "p99": 1.0}, "hub sqlite": {"p50": 2.5, "p99": 1.5}}


def rows(plan: Plan) -> list[Row]:
    """Median and 99th percentile, in milliseconds from when a message was due."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    notes: dict[str, str] = {}
    phase = {
        "mode": "rate",
        "rate": DELIVERIES_PER_S // SUBSCRIBERS,
        "seconds": plan.latency_s,
    }
    with together([*TARGETS, PEER], plan.folder / "latency") as servers:
        for number in range(plan.rounds):
            for name in plan.shuffled(list(servers), number):
                server = servers[name]
                if isinstance(server, Missing):
                    notes[name] = str(server)
                    continue
                plan.say(f"latency round {number + 1}/{plan.rounds}: {name}")
                try:
                    result = load.run(
                        "fanout", server, subscribers=SUBSCRIBERS, parsed=SAMPLED, phases=[phase]
                    )["phases"][0]
                except load.LoadFailed as error:
                    notes[name] = str(error)
                    plan.say(str(error))
                    continue
                for percentile in ("p50", "p99"):
                    values[name, percentile].append(result["latency_ms"][percentile])
    return [
        compare(
            f"latency {percentile} at 200k deliveries/s, {ours.removeprefix('hub ')}",
            unit="ms",
            ours=values[ours, percentile],
            peer=PEER,
            theirs=values[PEER, percentile],
            target=Target(of="ratio", most=most),
            note="; ".join(notes[name] for name in (ours, PEER) if name in notes),
        )
        for ours, bounds in TARGETS.items()
        for percentile, most in bounds.items()
    ]
