"""Certificates for servers of the tests."""

import ssl

import trustme


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    """What a server needs to prove that it is `name`, to clients that trust `authority`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context
