"""Compiled scans: loops over time and trials that numba compiles, and the cache of what it compiled."""
