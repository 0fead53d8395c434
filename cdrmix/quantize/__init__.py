"""Weights in fewer bits, chosen and rounded by what that does to a text.

`source` finds the model and its weights, `products` watches what matrices are multiplied with, `feedback` rounds by it,
`trial` says what a choice of encodings costs, `policy` chooses, and `quantise` does the whole.
"""
