"""The mathematics of meta-learning: pure functions of parameter dictionaries.

Imports torch and the standard library only, so it runs alone on any machine with torch.
"""
