"""What is done to every text before it goes anywhere, and to a shop's data before a model reads it."""
