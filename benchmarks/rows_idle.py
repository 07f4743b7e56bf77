"""Subscribers to whom nothing happens: memory of each, CPU of all."""

from benchmarks import load
from benchmarks.peers import Missing, start
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

OURS = "hub memory"
PEERS = ("nats-server", "node ws")
MEMORY_MAX_KB = 10
CPU_MAX_PERCENT = 3


def rows(plan: Plan) -> list[Row]:
    """One WebSocket with one subscription each; every server is fresh and alone."""
    memory: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for name in (OURS, *PEERS):
        plan.say(f"idle: {plan.idle_connections:,} connections to {name}")
        memory[name], cpu[name] = [], []
        try:
            server = start(name, plan.folder / "idle")
        except Missing as reason:
            notes[name] = str(reason)
            continue
        try:
            result = load.run(
                "idle", server, connections=plan.idle_connections, seconds=plan.idle_s
            )
        except load.LoadFailed as error:
            plan.say(str(error))
            notes[name] = str(error)
            continue
        finally:
            server.close()
        memory[name].append(result["kb_per_connection"])
        cpu[name].append(result["cpu_percent"])
    return [
        compare(
            what.format(f"{plan.idle_connections:,}"),
            unit=unit,
            ours=values[OURS],
            peer=peer,
            theirs=values[peer],
            target=Target(of="value", most=most),
            note="; ".join(notes[name] for name in (OURS, peer) if name in notes),
        )
        for unit, values, what, most in (
            ("KB", memory, "memory of an idle WebSocket", MEMORY_MAX_KB),
            ("% of a core", cpu, "CPU of {} idle WebSockets", CPU_MAX_PERCENT),
        )
        for peer in PEERS
    ]
