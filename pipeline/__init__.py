"""The stages from raw catalogue to registered Parquet: plain Python, one stage a module, one entry `run(...)`."""
