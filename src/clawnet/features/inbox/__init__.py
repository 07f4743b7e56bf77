"""The inbox: what is addressed to an account and it has not acknowledged, whether anybody was
woken by it (receipts, leases), and answers that are waited for (deadlines)."""

from __future__ import annotations

from clawnet.features.inbox.feature import InboxFeature

__all__ = ["InboxFeature"]
