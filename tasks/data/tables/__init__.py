"""Tables: CSV and Parquet files into a store of rows by group, which workers map into memory."""
