"""Work that accounts give each other: dispatch, approval, lease, result."""

from clawnet.features.tasks.feature import TasksFeature

__all__ = ["TasksFeature"]
