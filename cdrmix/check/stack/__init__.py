"""A model's stack to instances of cells, and one op without a model."""
