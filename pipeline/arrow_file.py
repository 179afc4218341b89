"""Arrow files, as Hugging Face's `datasets` and Feather write them: mapped, so that rows cost no memory before they are
read."""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

MAGIC = b"ARROW1"
"""First bytes of a file that has an index of its batches; a stream, which `datasets` writes, has none."""


def schema(path: Path) -> pa.Schema:
    """Names and types of the columns.

    Raises (as the others here):
        OSError, pyarrow.ArrowException: the file cannot be read, or is no Arrow file.
        UnicodeDecodeError: the name of a column is no UTF-8.
    """
    return _reader(path).schema


def batches(path: Path, columns: Collection[str], first: int = 0) -> Iterator[pa.RecordBatch]:
    """Some columns as they were written, a batch at a time. Every value is checked: whoever follows an offset that
    points elsewhere ends the process.

    Args:
        first: number of the first batch, from 0. A stream, which has no index, is read up to it.
    """
    reader = _reader(path, columns)
    coming: Iterator[pa.RecordBatch]
    if isinstance(reader, pa.RecordBatchFileReader):
        coming = map(reader.get_batch, range(first, reader.num_record_batches))
    else:
        coming = islice(reader, first, None)
    for batch in coming:
        batch.validate(full=True)
        yield batch


def _reader(path: Path, columns: Collection[str] = ()) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """A reader of some columns; of all, if none is named."""
    with path.open("rb") as raw:
        has_index = raw.read(len(MAGIC)) == MAGIC
    opened = pa.ipc.open_file if has_index else pa.ipc.open_stream
    reader = opened(pa.memory_map(str(path)))
    places = [place for place, name in enumerate(reader.schema.names) if name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=places)
    return opened(pa.memory_map(str(path)), options=options) if columns else reader
