"""Sources of raw data, one module for each form of data set."""
