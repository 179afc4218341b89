"""Templates of `cm3 ui`."""
