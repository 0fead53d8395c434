"""One op's body to a `Cell`: declarations, equations, expressions, time rules, parts."""
