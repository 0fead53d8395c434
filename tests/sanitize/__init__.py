"""Every spec's C program under the tools that find wrong memory and wrong arithmetic; `__main__.py` runs them."""
