"""How this program asks others over HTTP: at the address that was named, and at no other."""

import ssl
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, build_opener


class _NoRedirect(HTTPRedirectHandler):
    """What is sent may hold a key or a signature: nobody but the address that was named gets it."""

    def redirect_request(self, *_asked: object) -> None:
        """Follow nobody."""


def straight_opener(tls: ssl.SSLContext | None = None) -> OpenerDirector:
    """Return what opens requests; a redirect is an `HTTPError` like any other refusal.

    Args:
        tls: Whom to believe and what to show; Python's default if none.
    """
    return build_opener(_NoRedirect, HTTPSHandler(context=tls))
