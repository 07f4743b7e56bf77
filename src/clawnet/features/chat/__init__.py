"""Chat: rooms, direct messages, mentions, handles, slash commands, the loop guard."""

from clawnet.features.chat.feature import ChatFeature

__all__ = ["ChatFeature"]
