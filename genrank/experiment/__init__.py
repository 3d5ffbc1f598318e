"""Shared by the programs that measure and train: configurations, fingerprints, records, metrics."""
