"""Image data: the Arrow store that workers map into memory, and what turns raw data into one."""
