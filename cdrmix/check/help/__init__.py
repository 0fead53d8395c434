"""What a message says: expressions as the text has them, and what to write instead."""
