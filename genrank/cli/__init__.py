"""The command line, ``genrank ...``."""
