"""The application: the JSON API, what operators ask, and the store's pages."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from pipeline.registry.choices import Rows
from pipeline.report import index
from pipeline.serving import measures
from pipeline.serving.follower import failed
from pipeline.serving.model import Model, Wanted
from pipeline.serving.protection import Guard, Limits, Measured, refusal, trusted
from pipeline.serving.scoring import Overloaded
from pipeline.serving.versions import Loaded, Versions
from pipeline.similarity.lookup import DEFAULT_K
from pipeline.store import Store
from schemas.lineage import CODE_VERSION
from schemas.serving import MAX_K, Choices, Recommended, RecommendedForChoices, Refusal, Similar

API, OPENAPI = "/v1", "/v1/openapi.json"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
DESCRIPTION = "What to show a user, from the champion's tables. Every answer names the version that it was made from."
router = APIRouter()


def create(folder: Path, store: str, key: str = "", parent: int | None = None) -> FastAPI:
    """The application of one serving process.

    Args:
        folder: what the follower prepares.
        store: for the pages.
        key: that requests must have; empty: requests must be for this machine's own names.
        parent: the process without which this one ends; None: it ends by itself.
    """
    versions = Versions(folder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        versions.refresh()
        task = asyncio.create_task(versions.keep_fresh(os.getppid() if parent is None else parent))
        yield
        task.cancel()

    app = FastAPI(
        title="Recommendations",
        version=CODE_VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=OPENAPI,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # addresses hold users' ids
        middleware=[Middleware(Measured), Middleware(Guard, key=key), Middleware(Limits)],
        exception_handlers={
            HTTPException: _refused,
            RequestValidationError: _invalid,
            Overloaded: _overloaded,
            Exception: _failed,
        },
    )
    app.state.versions, app.state.store = versions, Store(store)
    app.include_router(router)
    app.add_route("/{path:path}", _page, methods=["GET", "HEAD"], include_in_schema=False)
    return app


async def _loaded(request: Request, dataset: str) -> Loaded:
    versions: Versions = request.app.state.versions
    if (loaded := versions[dataset]) is not None:
        return loaded
    served = ", ".join(versions.served()) or "none"
    if not versions.state.looked:
        raise HTTPException(503, "The versions are being prepared.", {"Retry-After": "1"})
    if entry := versions.state.datasets.get(dataset):
        raise HTTPException(503, f"{dataset} cannot be served: {entry.problem or 'it is being loaded'}")
    raise HTTPException(404, f"There is no data set {dataset!r} with recommendations; there are: {served}.")


Dataset = Annotated[Loaded, Depends(_loaded)]
K = Annotated[int, Query(ge=1, le=MAX_K, description="Items in the answer, at most.")]
NeighborsK = Annotated[int | None, Query(ge=1, description="Items in the answer, at most.")]
REFUSED: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "No such data set, user or item."},
    422: {"model": Refusal, "description": "A parameter is refused."},
    503: {"model": Refusal, "description": "Nothing is served yet, or too many requests wait."},
}


@router.get(API + "/{dataset}/recommend/{user:path}", response_model=Recommended, responses=REFUSED)
async def recommend(loaded: Dataset, user: str, k: K = 10) -> Response:
    """What to show a known user: the published list, and after its end the best other items by the same score."""
    model = loaded.model
    row = model.user(user)
    if row is None:
        where = f"in version {model.about.version}. POST the items that an unknown user chose."
        raise HTTPException(404, f"{model.about.dataset} has no user {user!r} {where}")
    rows, more_follow = model.listed(row, k)
    if more_follow:
        rest = await loaded.scoring.best(Wanted(row, k - len(rows), rows["item"].astype(np.int64)))
        rows = np.concatenate([rows, rest])
    return _answer(model, user=user, items=model.recommended(rows))


@router.post(API + "/{dataset}/recommend", response_model=RecommendedForChoices, responses=REFUSED)
async def recommend_for_choices(loaded: Dataset, choices: Choices) -> Response:
    """What to show an unknown user who chose these items; an item's reasons are those that speak for it."""
    return await run_in_threadpool(_for_choices, loaded.model, choices)


def _for_choices(model: Model, choices: Choices) -> Response:
    chosen = list(dict.fromkeys(choices.items))
    rows = [model.item(item) for item in chosen]
    unknown = [item for item, row in zip(chosen, rows, strict=True) if row is None]
    if len(unknown) == len(chosen):
        shown = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise HTTPException(
            404, f"{model.about.dataset} has none of the items {shown} in version {model.about.version}."
        )
    found = model.for_choices(_rows(rows), choices.k, _rows(map(model.item, choices.exclude)))
    return _answer(model, chosen=chosen, unknown=unknown, items=model.recommended(found))


@router.get(API + "/{dataset}/similar/{item:path}", response_model=Similar, responses=REFUSED)
async def similar(loaded: Dataset, item: str, k: NeighborsK = None) -> Response:
    """The nearest items by fused similarity; at most those that the graph holds, by default up to 10 of them."""
    model = loaded.model
    row, held = model.item(item), model.about.neighbors
    if row is None:
        raise HTTPException(404, f"{model.about.dataset} has no item {item!r} in version {model.about.version}.")
    if k is not None and k > held:
        raise HTTPException(422, f"k: expected 1 to {held}, which the graph holds of each item; found {k}.")
    return _answer(model, item=item, items=model.similar(row, min(held, DEFAULT_K) if k is None else k))


@router.get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "ok"}


@router.get("/readyz", include_in_schema=False)
async def readyz(request: Request) -> Response:
    """200 if something is served, even if the store is away: `problems` says so; else 503."""
    versions: Versions = request.app.state.versions
    served, problems = versions.served(), versions.problems()
    said: dict[str, Any] = {"status": "not ready" if not served else "stale" if problems else "ready"}
    if trusted(request):
        said |= {"served": served, "problems": problems}
    return _json(said, 200 if served else 503)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    versions: Versions = request.app.state.versions
    text = await run_in_threadpool(measures.exposed, versions.served(), versions.problems(), versions.state.looked)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(API, include_in_schema=False)
async def api_page(request: Request) -> Response:
    """The API for people."""
    store: Store = request.app.state.store
    return _html(200, index.api(store, request.app.openapi()))


async def _page(request: Request) -> Response:
    """A page of the store."""
    store: Store = request.app.state.store
    path = request.scope["raw_path"].decode()
    if path.startswith(f"{API}/"):
        raise HTTPException(404, f"The API has nothing at {request.scope['path']!r}; {API} says what it has.")
    try:
        status, content_type, body = await run_in_threadpool(index.respond, store, path)
    except failed() as error:
        return Response(f"The store could not be read: {error}\n", 500, media_type="text/plain")
    return _html(status, body, content_type)


def _html(status: int, body: bytes, content_type: str = index.HTML) -> Response:
    # A report has a policy of its own, which allows its script.
    policy = {} if b"Content-Security-Policy" in body[:4000] else {"Content-Security-Policy": POLICY}
    return Response(body, status, policy, content_type)


def _answer(model: Model, **content: Any) -> Response:
    about = model.about
    return _json({"dataset": about.dataset, "version": about.version, "embeddings": about.embeddings} | content)


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def _rows(found: Iterable[int | None]) -> Rows:
    """The rows of items that are in the catalogue."""
    return np.array([row for row in found if row is not None], np.int64)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail), **(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> Response:
    """One line for each refused parameter: its name, what is allowed, and what was given."""
    assert isinstance(error, RequestValidationError)
    lines = []
    for problem in error.errors():
        if problem["type"] == "json_invalid":
            return refusal(422, f"body: expected JSON; {problem['ctx']['error']}")
        place = [str(part) for part in problem["loc"] if part not in ("query", "body", "path")]
        given = problem.get("input")
        found = f" (found {given!r})" if isinstance(given, (str, int, float)) and len(str(given)) < 80 else ""
        lines.append(f"{'.'.join(place) or 'body'}: {problem['msg'][:200]}{found}")
    return refusal(422, "; ".join(lines[:5]))


async def _overloaded(_: Request, __: Exception) -> Response:
    return refusal(503, "Too many requests wait. Ask again in a second.", **{"Retry-After": "1"})


async def _failed(_: Request, __: Exception) -> Response:
    return refusal(500, "The service failed; its log says why.")
