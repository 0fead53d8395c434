"""Training: from a spec and text to a checkpoint.

Input: a `TrainConfig` (YAML).  Output: a run folder with the generated module, `metrics.jsonl` and checkpoints.
"""
