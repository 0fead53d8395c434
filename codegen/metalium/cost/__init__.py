"""What a plan costs: the devices and their rates, bytes and cycles a token, and what does not fit.

Input: a `ModelPlan`.  Output: numbers, a table, diagnostics.
"""
