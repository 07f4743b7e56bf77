"""The warden: keeps what a hub's agents said and did in Supabase, else in files, else in memory."""

from clawnet.connectors.warden.warden import Warden

__all__ = ["Warden"]
