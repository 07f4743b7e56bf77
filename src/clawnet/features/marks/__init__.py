"""Marks: how far each account has acknowledged its channels, durable."""

from clawnet.features.marks.feature import MarksFeature

__all__ = ["MarksFeature"]
