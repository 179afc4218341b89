"""The contract of the house: every table's Arrow schema and every parameter's frozen model.

Imports pyarrow and pydantic only, so a consumer can install and import it alone.
"""
