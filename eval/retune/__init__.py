"""Re-tuning on a schedule.

What shoppers did since the last round becomes training data, and the new version is served only if it is not worse.
``python -m eval.retune`` does one round (`eval.retune.rounds`); ``python -m eval.retune.trial`` tries the whole loop
with simulated shoppers.
"""
