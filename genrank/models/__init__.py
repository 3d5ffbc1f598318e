"""Known models: where their files come from, how they get onto the disk, and whether they are still whole."""
