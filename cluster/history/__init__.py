"""The runs, searches and comparisons that a folder holds: listed, described, compared, removed."""
