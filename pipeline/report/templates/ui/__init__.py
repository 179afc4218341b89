"""Templates of `cm3 serve`."""
