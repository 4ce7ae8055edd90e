"""Searches over any key of a configuration: many trainings on Ray Tune, the best of them looked at twice."""
