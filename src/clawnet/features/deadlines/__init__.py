"""Deadlines: a publish that expects an answer, and what becomes of silence."""

from __future__ import annotations

from clawnet.features.deadlines.feature import DeadlinesFeature

__all__ = ["DeadlinesFeature"]
