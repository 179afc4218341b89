"""How a run would read a strange folder: which file is what, which column is what, and why."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.ingest.cells import listed
from pipeline.ingest.files import formats, streams
from pipeline.ingest.files.delimited import LONGEST_HEADER
from pipeline.ingest.files.json_lines import as_text
from pipeline.ingest.filters import k_core
from pipeline.ingest.guess import roles
from pipeline.ingest.guess.roles import Role
from pipeline.ingest.guess.seen import HELD, Folder, Seen, look, raw_file
from pipeline.ingest.tally import Quality
from schemas.sources import plain_name

MOST_IDS = 200_000
"""Rows whose ids are read to see which files belong together, and how often users chose."""
FEWEST_PICTURES = 0.2
"""Share of the first items that must have a picture by their id for these to be the items' pictures."""
FEWEST_ITEMS = 0.5
"""Share of the interactions about items of the items' file, below which it is said how their ids differ, and a file
whose columns' names do not tell is not taken for interactions."""
FEWEST_USERS = 5
"""Users whom a file must have, if its columns' names do not tell, and at least as many as the items that one chose on
average."""
CORES = (5, 3, 2)
"""Values of `core_k` that are tried, the default first."""
LEFT = 0.5
"""Share of the interactions that a `core_k` must leave."""


@dataclass(frozen=True)
class Line:
    """One parameter: its value, and why. A value of None is for the user to fill in, and `why` says with what."""

    field: str
    value: Any
    why: str


@dataclass
class Guess:
    """The parameters of a run, in the order in which a file gives them, and what else a user should know."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any) -> None:
        """Take a user's word for a parameter."""
        line = Line(name, value, "given" if value is not None else next(x.why for x in self.lines if x.field == name))
        outer, _, inner = name.rpartition(".")
        for place, other in enumerate(self.lines):
            if other.field == name:
                self.lines[place] = line
                return
            if other.field == outer and isinstance(other.value, dict):
                self.lines[place] = Line(outer, other.value | {inner: value}, other.why)
                return
        self.lines.append(line)


def guess(path: Path, name: str) -> Guess:
    """Guess the parameters of a run on a folder, for a data set of this name.

    Raises:
        UserError: it is no folder.
    """
    folder = look(path)
    made = Guess([Line("kind", "catalogue", ""), Line("raw", str(path), ""), Line("name", name, "")])
    made.notes.extend(f"{file} is left out: {reason}" for file, reason in folder.unread.items())
    made.notes.extend(
        f"{file.name}: left out is what several columns are called: {', '.join(file.repeated)}. Rename all but one."
        for file in folder.files
        if file.repeated
    )
    if (published := _of_mmrec(folder)) is not None:
        made.lines[0], made.lines[2] = Line("kind", "mmrec", "user, item and split numbers"), published
        return made
    pair = _pair(folder)
    _items(made, folder, pair)
    _interactions(made, folder, pair)
    chosen = {file.name for file in (pair.items, pair.interactions) if file}
    if others := [file.name for file in folder.files if file.name not in chosen]:
        made.notes.append(f"Not used: {', '.join(others)}.")
    return made


def _of_mmrec(folder: Folder) -> Line | None:
    """The name of the file, where there is none but those of MMRec."""
    ours = [file for file in folder.files if {"userID", "itemID", "x_label"} <= set(file.columns)]
    others = [file for file in folder.files if file not in ours and not file.name.endswith("_id_mapping.csv")]
    if not ours or others:
        return None
    names = [file.name.removesuffix(".inter") for file in ours]
    more = f"; there are also {', '.join(names[1:])}" if names[1:] else ""
    return Line("name", names[0], f"the largest .inter file{more}")


@dataclass(frozen=True)
class _Pair:
    """The two files, if there are such; the items' column of ids, the share of the interactions that it meets, and the
    roles of the interactions' columns."""

    items: Seen | None
    interactions: Seen | None
    id_column: str = ""
    share: float = 0.0
    fields: Mapping[str, Role] = field(default_factory=dict)


def _pair(folder: Folder) -> _Pair:
    """Of all pairs of files the one whose ids meet most, of equal ones the largest."""
    events = [file for file in folder.files if {"user_id", "item_id"} <= roles.of_interactions(file).keys()]
    items = [file for file in folder.files if _tells(roles.of_items(file)) and (file not in events or not _rates(file))]
    best = _Pair(next(iter(items), None), next(iter(events), None))
    if events:
        best = replace(best, fields=roles.of_interactions(events[0]))
    candidates = [(item, column, set(_ids(folder, item, column))) for item in items for column in _id_columns(item)]
    for event in events:
        best = _fitting(folder, best, event, roles.of_interactions(event), candidates)
    for file in folder.files if not events else ():  # no names tell: the ids do
        for theirs in (column for column in file.columns if roles.is_id(file.values(column) or [""])):
            about = _fitting(folder, best, file, {"item_id": Role((theirs,), "")}, candidates)
            if about is not best and about.share >= FEWEST_ITEMS:
                fields = roles.around_items(file, theirs, partial(_choose, folder, file, theirs))
                best = replace(about, fields=fields) if "user_id" in fields else best
    return best


def _choose(folder: Folder, file: Seen, items: str, users: str) -> bool:
    """Whether a column's values could be users who choose these items: many, most with a digit or an @, and several for
    some item. Languages, warehouses, colours or brands lack one of these."""
    pairs = set(_rows(folder, file, [users, items]))
    theirs, chosen = ({pair[side] for pair in pairs} for side in (0, 1))
    like_ids = sum(bool(re.search(r"[\d@]", one)) for one in theirs)
    is_many = len(theirs) >= max(FEWEST_USERS, len(pairs) ** 0.5)
    return is_many and like_ids > len(theirs) / 2 and len(pairs) > len(chosen)


def _fitting(
    folder: Folder,
    best: _Pair,
    event: Seen,
    fields: Mapping[str, Role],
    candidates: Sequence[tuple[Seen, str, set[str]]],
) -> _Pair:
    """The pair with this file, if its items' ids meet more of a catalogue than those of the best so far."""
    chosen = _ids(folder, event, fields["item_id"].columns[0])
    for item, column, ids in candidates if chosen else ():
        share = sum(one in ids for one in chosen) / len(chosen)
        if item is not event and share > best.share:
            best = _Pair(item, event, column, share, fields)
    return best


def _tells(fields: dict[str, Role]) -> bool:
    """Whether a file has ids, and says anything of its items."""
    return "item_id" in fields and bool(fields.keys() - {"item_id", "price", "brand"})


def _rates(file: Seen) -> bool:
    return bool(roles.of_interactions(file).keys() & {"rating", "timestamp"})


def _id_columns(file: Seen) -> list[str]:
    """The columns that could hold the items' ids, the likeliest first."""
    guessed = roles.of_items(file)["item_id"].columns[0]
    names = roles.INTERACTION_NAMES["item_id"]
    named = [c for c in file.columns if roles.plain(c) in names and roles.is_id(file.values(c) or [""])]
    return list(dict.fromkeys([guessed, *named]))


def _ids(folder: Folder, file: Seen, column: str) -> list[str]:
    """The ids in a column, of the first rows."""
    return [one for (one,) in _rows(folder, file, [column])]


def _rows(folder: Folder, file: Seen, columns: list[str]) -> list[tuple[str, ...]]:
    """The first rows that have a value in each column."""
    records = formats.records(raw_file(folder.path, file.name), columns, Quality(), 1.0, file.form)
    values = ([record.get(column) for column in columns] for record in islice(records, MOST_IDS))
    return [tuple((as_text(value) or "").strip() for value in row) for row in values if None not in row]


def _items(made: Guess, folder: Folder, pair: _Pair) -> None:
    file = pair.items
    if file is None:
        made.lines.append(Line("items", None, "the file of items: none here has ids beside titles, texts or pictures"))
        return
    fields = roles.of_items(file)
    if pair.id_column and pair.id_column != fields["item_id"].columns[0]:
        fields["item_id"] = Role((pair.id_column,), "the interactions' ids are there")
    made.lines.append(Line("items", file.name, f"it has ids beside {', '.join(sorted(fields.keys() - {'item_id'}))}"))
    _columns(made, file, fields, "item")
    if "title" not in fields:
        made.notes.append(f"{file.name} has no column that looks like a title; the texts are what encoders read.")
    if separator := _category_separator(folder, file, fields):
        made.lines.append(Line("category_separator", separator, "between the categories of one item"))
    if separator := _gallery_separator(file, fields):
        made.lines.append(Line("gallery_separator", separator, "between the pictures of one item"))
    _pictures(made, folder, file, fields)


def _columns(made: Guess, file: Seen, fields: dict[str, Role], kind: str) -> None:
    """How the file is written, and which column is what; a file without a header gets one of our names."""
    form = file.form
    if form.header:
        ours = {role.columns[0]: name for name, role in fields.items() if len(role.columns) == 1}
        form = form.model_copy(update={"header": tuple(ours.get(column, column) for column in form.header)})
    if values := form.model_dump(exclude_defaults=True, mode="json"):
        name = {"item": "items_format", "interaction": "interactions_format"}[kind]
        made.lines.append(Line(name, values, "it has no header line" if form.header else "how it is written"))
    for name, role in fields.items():
        if role.columns[0] in file.form.header:
            made.notes.append(f"{file.name}: {role.columns[0]} is taken for {name}, as {role.why}.")
        elif role.columns != (name,):
            theirs = role.columns[0] if len(role.columns) == 1 else list(role.columns)
            example = str(next(value for column in role.columns for value in file.values(column)))[:40]
            made.lines.append(Line(f"{kind}_columns.{name}", theirs, f"{role.why}; e.g. {example}"))


def _category_separator(folder: Folder, file: Seen, fields: dict[str, Role]) -> str | None:
    if "categories" not in fields:
        return None
    columns = fields["categories"].columns
    if plain_name(file.name).endswith(".item"):  # of RecBole: a list is typed so in the header, with blanks between
        with streams.opened(raw_file(folder.path, file.name)) as stream:
            header = stream.read(LONGEST_HEADER).split(b"\n", 1)[0].decode(errors="replace").split("\t")
        return " " if f"{columns[0]}:token_seq" in map(str.strip, header) else None
    values = [value for column in columns for value in file.values(column) if isinstance(value, str)]
    texts = [text for text in values if listed(text) is None]
    separators = ["|", ">", ";", ","]
    if any(re.search(r"(?:^|, )([^,>]+), \1 > ", text) for text in texts):  # of WooCommerce: paths, a comma between
        separators.remove(">")
    separator = next((one for one in separators if sum(one in text for text in texts) >= len(texts) / 5), "|")
    if separator == "|" or not texts:
        return None
    return ", " if separator == "," and not any(re.search(r",\S", text) for text in texts) else separator


def _gallery_separator(file: Seen, fields: dict[str, Role]) -> str | None:
    if "gallery_urls" not in fields:
        return None
    texts = [
        value for column in fields["gallery_urls"].columns for value in file.values(column) if isinstance(value, str)
    ]
    several = [text for text in texts if len(re.findall(r"https?://", text)) > 1 and listed(text) is None]
    between = re.compile(r"([|;]|, ?|\s)\s*(?=https?://)")
    separators = [match[1] for text in several if (match := between.search(text))]
    return None if not separators or separators[0] == "|" else separators[0]


def _pictures(made: Guess, folder: Folder, file: Seen, fields: dict[str, Role]) -> None:
    """Where pictures lie by the items' ids, or that those of a column are not where it says."""
    absent = []
    for name in ("image_url", "gallery_urls"):
        column = fields[name].columns[0] if name in fields else ""
        paths = [v for v in file.values(column) if isinstance(v, str) and "//" not in v and v != HELD]
        if any((folder.path / path).is_file() for path in paths):
            return
        absent += [f"{file.name}: {column} says {path}, which is no file below {folder.path}." for path in paths[:1]]
    ids = [as_text(value) or "" for value in file.values(fields["item_id"].columns[0])]
    for parent, names in folder.pictures.items():
        stems = {Path(name).stem: Path(name).suffix for name in names}
        ends = [stems[one] for one in ids if one in stems]
        if len(ends) >= FEWEST_PICTURES * len(ids):
            template = f"{parent}/{{item_id}}{max(set(ends), key=ends.count)}".lstrip("/")
            why = f"{len(ends)} of the first {len(ids)} items have a picture there"
            made.lines.append(Line("image_url", template, why))
            return
    made.notes.extend(absent)


def _interactions(made: Guess, folder: Folder, pair: _Pair) -> None:
    file = pair.interactions
    if file is None:
        why = "no file has users beside items: without one, `cm3 extract file` makes features alone"
        made.lines.append(Line("interactions", "", why))
        return
    fields = dict(pair.fields)
    why = f"{pair.share:.0%} of its items are in {pair.items.name}" if pair.items else "it has users and items"
    made.lines.append(Line("interactions", file.name, why))
    _columns(made, file, fields, "interaction")
    _doubts(made, folder, pair, fields)
    if "rating" in fields:
        values = file.values(fields["rating"].columns[0])
        if words := roles.event_values(values):
            made.lines.append(Line("rating_values", words, "words in place of ratings"))
        elif len(set(map(str, values))) > 2:
            made.notes.append("Every rating counts as a choice; `ingest: {min_rating: 4}` takes those from 4 on.")
    _core(made, _rows(folder, file, [fields["user_id"].columns[0], fields["item_id"].columns[0]]))


def _doubts(made: Guess, folder: Folder, pair: _Pair, fields: dict[str, Role]) -> None:
    """Notes on interactions that may be other ones than the user means."""
    file, items = pair.interactions, pair.items
    assert file is not None
    if items is not None and items is not file and pair.share < FEWEST_ITEMS:
        ids = _ids(folder, items, pair.id_column or roles.of_items(items)["item_id"].columns[0])
        strangers = set(_ids(folder, file, fields["item_id"].columns[0])).difference(ids)
        if ids and strangers:
            made.notes.append(
                f"A run drops what is about items that {items.name} lacks: {file.name} names e.g. {min(strangers)}, "
                f"ids there are like {ids[0]}. Write them alike, or name other columns or files."
            )
    events = [other for other in folder.files if {"user_id", "item_id"} <= roles.of_interactions(other).keys()]
    if others := [other.name for other in events if other not in (file, items)]:
        made.notes.append(f"Users and items are also in {', '.join(others)}; {file.name}'s ids fit best, or as well.")
    if "timestamp" in fields and fields["timestamp"].why == roles.TIMES:
        time = fields["timestamp"].columns[0]
        if times := [column for column in roles.times_in(file) if column != time]:
            made.notes.append(f"{file.name}: times are also in {', '.join(times)}; {time} is the first such column.")


def _core(made: Guess, pairs: list[tuple[str, ...]]) -> None:
    """A lower `core_k`, where the default would leave too few interactions to train on."""
    if not pairs:
        return
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row").unique()
    users, items = (frame[name].cast(pl.Categorical).to_physical().to_numpy() for name in frame.columns)
    shares = {k: len(k_core(users, items, k)) / len(frame) for k in CORES}
    k = next((k for k, share in shares.items() if share >= LEFT), 1)
    if k != CORES[0]:
        why = f"with {CORES[0]}, users and items with fewer go, and {shares[CORES[0]]:.0%} of the choices are left"
        made.lines.append(Line("ingest.core_k", k, why))
