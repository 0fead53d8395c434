"""Training: from a spec and text to a checkpoint.

Input: a `TrainConfig` (YAML).  Output: a run folder with the generated module, `metrics.jsonl` and checkpoints.
"""

import os

# Before torch is imported: OpenMP's threads must not spin while they wait, or a machine that does anything else
# besides slows a two-thread run by a factor of six.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
