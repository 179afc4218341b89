"""Prefect's API as its own client asks it: with the login, and a CSRF token with everything that is sent."""

import base64
import uuid
from collections.abc import Generator

import httpx


class Login(httpx.Auth):
    """`httpx.Client(auth=Login("user:password"))`; the token is asked for once."""

    requires_response_body = True

    def __init__(self, auth_string: str) -> None:
        self.basic = f"Basic {base64.b64encode(auth_string.encode()).decode()}"
        self.name = str(uuid.uuid4())
        self.token: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the login and, to what is not a plain GET, the token."""
        request.headers["Authorization"] = self.basic
        if request.method != "GET":
            if self.token is None:
                url = request.url.copy_with(path="/api/csrf-token", query=f"client={self.name}".encode())
                answer = yield httpx.Request("GET", url, headers={"Authorization": self.basic})
                self.token = answer.json()["token"]
            request.headers.update({"Prefect-Csrf-Token": self.token, "Prefect-Csrf-Client": self.name})
        yield request


def client(environment: dict[str, str]) -> httpx.Client:
    """A client of the API that an environment's variables name."""
    login = Login(environment["PREFECT_API_AUTH_STRING"])
    return httpx.Client(base_url=environment["PREFECT_API_URL"], auth=login, timeout=30)
