"""Implementations of the log and the state; only app picks one."""
