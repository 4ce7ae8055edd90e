"""Reproductions: rows of docs/results.md, each a comparison with published numbers beside it, and their records."""
