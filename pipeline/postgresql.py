"""The driver of an address of PostgreSQL."""

import re


def with_driver(address: str) -> str:
    """The address with psycopg 3 where it names no driver: SQLAlchemy 2.0 would take psycopg2, which is no longer
    developed. Any other address stays as it is."""
    return re.sub(r"^postgresql://", "postgresql+psycopg://", address)
