"""Moves events: commit queue, fan-out, subscriptions, consumers, accounts, rights in memory."""
