"""Item–item weights: a closed form that sees who chose what and what items are, as a term of the score."""
