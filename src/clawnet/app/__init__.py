"""Wiring: the only place that picks an engine and starts and stops things."""
