"""Encoders behind Protocols. Stages import `load` and `base`; `load.load` imports an adapter and its library."""
