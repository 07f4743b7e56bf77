"""What a warden kept, handed back to a hub that began empty."""

from clawnet.features.warden.feature import WardenFeature

__all__ = ["WardenFeature"]
