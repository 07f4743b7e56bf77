"""The durable engine: one SQLite file for the log and the state, a disposable one for indices."""

from clawnet.engines.sqlite.backups import restore
from clawnet.engines.sqlite.engine import SqliteEngine

__all__ = ["SqliteEngine", "restore"]
