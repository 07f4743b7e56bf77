"""Interfaces that translate bytes to typed requests and back, and never decide."""
