"""File formats: lines, JSON Lines, CSV, and the columns of interactions in any of them."""
