"""From a plan to TT-Metalium: the reader, compute and writer kernels of each program, and what the host launches.

Input: a `ModelPlan`.  Output: C++ by file name, and plain data for the manifest.
"""
