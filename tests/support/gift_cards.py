"""Amazon's Gift Cards of 2018, small enough for tests that are about a run of them and not about their number."""

import gzip
import json
from pathlib import Path


def reviewed_gift_cards(data: Path, folder: Path) -> Path:
    """The files of the gift cards that somebody reviewed, a tenth of all."""
    folder.mkdir()
    reviews = folder / "Gift_Cards_5.json.gz"
    for name in (reviews.name, "images"):
        (folder / name).symlink_to(data / name)
    with gzip.open(reviews) as file:
        reviewed = {json.loads(line)["asin"] for line in file}
    with (
        gzip.open(data / "meta_Gift_Cards.json.gz") as every,
        gzip.open(folder / "meta_Gift_Cards.json.gz", "wb") as few,
    ):
        few.writelines(line for line in every if json.loads(line)["asin"] in reviewed)
    return folder
