"""File formats: lines, JSON Lines, CSV, Parquet, and the columns of interactions in any of them."""
