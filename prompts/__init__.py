"""Prompt templates as data; `genrank.prompting` loads them."""
