"""Prompt templates as TOML files; `genrank.prompting` loads them."""
