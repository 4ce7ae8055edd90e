"""Pages and figures of runs and searches."""
