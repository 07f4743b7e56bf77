"""What accounts say of their channels, and the schemas that they have enforced there."""

from clawnet.features.adverts.feature import AdvertsFeature

__all__ = ["AdvertsFeature"]
