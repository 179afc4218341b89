"""`cm3 captions …` and `cm3 embeddings …`: answers by a batch, for those who cannot ask a server one by one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, json_object, opened
from schemas.errors import explain

if TYPE_CHECKING:
    from pipeline.store import Store
    from schemas.encoders import CaptionSpec, EncoderSpec
    from schemas.lineage import TableVersion

Spec = TypeVar("Spec", bound=BaseModel)

Folder = Annotated[Path, typer.Argument(help="Folder for the files of requests.")]
Files = Annotated[list[Path], typer.Argument(help="Files of answers.")]
Captioner = Annotated[
    Any, typer.Option(help="The captioner, as in a run (JSON); of kind `endpoint`.", parser=json_object, metavar="JSON")
]
Encoder = Annotated[
    Any,
    typer.Option(
        help="The encoder, as in a run (JSON); of kind `embedding-endpoint` or `embedding-endpoint-image`.",
        parser=json_object,
        metavar="JSON",
    ),
]
OfCaptions = Annotated[bool, typer.Option("--of-captions", help="Vectors of the captions, not of the items' texts.")]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for name, write, read in (
        ("captions", export_captions, import_captions),
        ("embeddings", export_embeddings, import_embeddings),
    ):
        group = typer.Typer(no_args_is_help=True)
        group.command("export")(write)
        group.command("import")(read)
        app.add_typer(group, name=name, help=f"Write requests for {name} as an OpenAI batch, and read its answers.")


def export_captions(
    dataset: Dataset, folder: Folder, captioner: Captioner, store: StoreOption = "store", as_json: JsonOption = False
) -> None:
    """Write a request for every picture that has no caption yet, as JSON Lines for a batch.

    Example: `cm3 captions export shop ./batch --captioner '{"kind": "endpoint", "model": "gpt-5-mini", "base_url":
    "https://api.openai.com/v1"}'`
    """
    from pipeline.captions import batch

    spec, source = _captioner(captioner), opened(store)
    files = batch.export(store=source, images=source.latest(dataset, "images"), spec=spec, folder=folder)
    names = [str(file) for file in files]
    answer({"files": names}, as_json, *(names or ["Every picture has its caption."]))


def import_captions(
    dataset: Dataset, files: Files, captioner: Captioner, store: StoreOption = "store", as_json: JsonOption = False
) -> None:
    """Read a batch's answers; the next run with the same captioner finds them. Reading them twice changes nothing.

    Example: `cm3 captions import shop ./batch/answers.jsonl --captioner '{"kind": "endpoint", "model": "gpt-5-mini",
    "base_url": "https://api.openai.com/v1"}'`
    """
    from pipeline.captions import batch

    spec, source = _captioner(captioner), opened(store)
    counts = batch.read(store=source, images=source.latest(dataset, "images"), spec=spec, files=files)
    answer(counts, as_json, _counted(counts))


def export_embeddings(
    dataset: Dataset,
    folder: Folder,
    encoder: Encoder,
    of_captions: OfCaptions = False,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Write a request for every text, or picture, that has no vector yet, as JSON Lines for a batch.

    Example: `cm3 embeddings export shop ./batch --encoder '{"kind": "embedding-endpoint", "model":
    "text-embedding-3-small", "base_url": "https://api.openai.com/v1"}'`
    """
    from pipeline.features import batch

    spec, source = _encoder(encoder), opened(store)
    files = batch.export(store=source, **_read_by(source, dataset, spec, of_captions), spec=spec, folder=folder)
    names = [str(file) for file in files]
    answer({"files": names}, as_json, *(names or [f"Every {spec.modality} has its vector."]))


def import_embeddings(
    dataset: Dataset,
    files: Files,
    encoder: Encoder,
    of_captions: OfCaptions = False,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Read a batch's answers; the next run with the same encoder finds them. Reading them twice changes nothing.

    Example: `cm3 embeddings import shop ./batch/answers.jsonl --encoder '{"kind": "embedding-endpoint", "model":
    "text-embedding-3-small", "base_url": "https://api.openai.com/v1"}'`
    """
    from pipeline.features import batch

    spec, source = _encoder(encoder), opened(store)
    counts = batch.read(store=source, **_read_by(source, dataset, spec, of_captions), spec=spec, files=files)
    answer(counts, as_json, _counted(counts))


def _read_by(store: "Store", dataset: str, spec: "EncoderSpec", of_captions: bool) -> dict[str, Any]:
    """The latest tables that the encoder reads, as `pipeline.features.batch` names them."""
    if spec.modality == "text":
        return {"source": store.latest(dataset, "captions" if of_captions else "items")}
    images = store.latest(dataset, "images")
    return {"source": images, "gallery": _gallery(store, images)}


def _gallery(store: "Store", images: "TableVersion") -> "TableVersion | None":
    """The further pictures that a run reads beside these main ones; None if there are none. The latest may be older: of
    an earlier catalogue, or of a run with another `images.pictures`."""
    from pipeline.run_records import newest_first

    if not store.has_latest(images.dataset, "gallery"):
        return None
    gallery = store.latest(images.dataset, "gallery")
    if gallery.lineage["cm3.inputs"] != images.lineage["cm3.inputs"]:
        return None
    runs = ({s.table: s.version for s in record.stages} for record in newest_first(store, images.dataset))
    tables = next((tables for tables in runs if tables.get("images") == images.version), None)
    return gallery if tables is None or "gallery" in tables else None


def _counted(counts: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())


def _captioner(values: Any) -> "CaptionSpec":
    from schemas.encoders import CaptionSpec

    return _checked(values, "captioner", CaptionSpec)


def _encoder(values: Any) -> "EncoderSpec":
    from schemas.encoders import EncoderSpec

    return _checked(values, "encoder", EncoderSpec)


def _checked(values: Any, option: str, model: type[Spec]) -> Spec:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error, option, model) from error
