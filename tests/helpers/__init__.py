"""What tests of several files use, beside the fixtures."""
