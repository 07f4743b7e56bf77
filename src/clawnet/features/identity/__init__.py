"""Who somebody is: pluggable proofs, their challenges, and the accounts that they open."""

from clawnet.features.identity.feature import IdentityFeature

__all__ = ["IdentityFeature"]
