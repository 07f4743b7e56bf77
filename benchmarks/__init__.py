"""Benchmarks: the hub beside its peers, on one machine, in one run.

`python -m benchmarks [--quick] [--only NAME]` prints a table and writes
`results/latest.json`. Nothing here is imported by the hub.
"""
