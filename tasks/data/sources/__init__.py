"""Sources of raw data: each reads one form of data set that users really have."""
