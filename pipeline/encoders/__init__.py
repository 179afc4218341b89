"""Encoders and captioners behind Protocols. A stage imports `load` and `base`; adapters import their library lazily."""
