"""Jinja templates, style and script of the report; a package so that installers carry them."""
