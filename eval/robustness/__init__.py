"""What a hostile listing gains, and how much an order hangs on the order in which the candidates were shown."""
