"""Loads the gateway while everything around it fails, and checks every answer."""
