"""Configurations that come with metaray: trainings here, searches in ``search/``, comparisons in ``compare/``."""
