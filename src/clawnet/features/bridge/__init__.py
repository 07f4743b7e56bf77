"""The hub's events into a Centrifugo that stands in front of it.

Nothing is imported here: most hubs have no such thing, and its HTTP client takes time to load.
"""
