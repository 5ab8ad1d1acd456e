"""Servers that benchmarks start as processes of their own, so that a core can be theirs."""
