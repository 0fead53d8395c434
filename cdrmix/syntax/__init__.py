"""Text to syntax trees: `parse`, `parse_expression`, `read_source` and the nodes in `ast`."""

from cdrmix.syntax.parser import parse, parse_expression
from cdrmix.syntax.source import read_source

__all__ = ["parse", "parse_expression", "read_source"]
