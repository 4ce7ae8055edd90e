"""Comparisons: variants of a configuration, each trained on one budget from several seeds, and one table of them."""
