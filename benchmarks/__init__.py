"""Benchmarks: ratios against a reference run in the same minute; see each module."""
