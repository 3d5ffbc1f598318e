"""Programs that train: ``python -m finetune.sft --config finetune/configs/NAME.yaml``."""
