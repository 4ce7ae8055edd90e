"""Examination of the machine: whether it has what trainings need, and what to do where it has not."""
