"""The fleet: enrolment by the shared secret, reports, who is there and what it can do."""

from clawnet.features.fleet.feature import FleetFeature

__all__ = ["FleetFeature"]
