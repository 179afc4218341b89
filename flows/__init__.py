"""Prefect: order, retries, schedules, artifacts. Bodies are calls that pass paths and small configs."""
