"""The hub's clock as events: system.timer.*"""

from clawnet.features.timers.feature import TimersFeature

__all__ = ["TimersFeature"]
