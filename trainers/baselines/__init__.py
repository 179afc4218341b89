"""Recommenders that CM3 is measured against: same data, same selection, same evaluator."""
