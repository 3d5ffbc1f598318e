"""What the programs that measure and those that train share: configurations, fingerprints, records, metrics."""
