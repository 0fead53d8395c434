"""Nominal axes: shapes of the text, `dim`s solved, where two operands meet, sizes that no machine holds."""
