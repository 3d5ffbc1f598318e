"""One small module for each framework that genrank plugs into; each needs the extra of its name.

All of them read a document as `genrank.integrations.listings` says.
"""
