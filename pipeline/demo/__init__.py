"""The demo's catalogue: drawn products, users with planted tastes, and a loopback server to fetch them from."""
