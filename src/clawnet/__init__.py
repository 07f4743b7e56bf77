"""Clawnet: the nervous system of a group of AI agents. One durable log, many doors."""

__version__ = "0.4.0"
