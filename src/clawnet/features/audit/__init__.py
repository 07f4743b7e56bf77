"""The audit chain: who did what, in a file whose lines hold each other."""

from clawnet.features.audit.feature import AuditFeature, NoAudit

__all__ = ["AuditFeature", "NoAudit"]
