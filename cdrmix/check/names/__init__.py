"""What names mean: files and their imports, derived ops, settings, static values."""
