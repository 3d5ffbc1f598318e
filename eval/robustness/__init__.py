"""What a hostile listing gains, and how much the ranking depends on the order in which candidates are shown."""
