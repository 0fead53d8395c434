"""What a training run will take, before it is run: memory, communication and time of a step, for a config and GPUs.

Input: a `TrainConfig` and the machine.  Output: a `Plan`, and text for people (`report`).  Nothing is allocated.
"""
