"""Asking to be let into a private channel."""

from clawnet.features.access.feature import AccessFeature

__all__ = ["AccessFeature"]
