"""The recommenders and their evaluation. Tables in, embeddings and metrics out; nothing here knows the pipeline."""
