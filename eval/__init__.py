"""Programs that measure: run them from a clone, as ``python -m eval.run --config eval/configs/NAME.yaml``."""
