"""Helpers that tests of several files share, beside the fixtures."""
