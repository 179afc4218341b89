"""The categories of each release of Amazon Reviews, by the names in the distribution's own file names."""

import difflib
from typing import Final

RELEASES: Final[dict[int, tuple[str, ...]]] = {
    2014: (
        "Amazon_Instant_Video", "Apps_for_Android", "Automotive", "Baby", "Beauty", "Books", "CDs_and_Vinyl",
        "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
        "Grocery_and_Gourmet_Food", "Health_and_Personal_Care", "Home_and_Kitchen", "Kindle_Store", "Movies_and_TV",
        "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Sports_and_Outdoors",
        "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games",
    ),
    2018: (
        "AMAZON_FASHION", "All_Beauty", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Books", "CDs_and_Vinyl",
        "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards",
        "Grocery_and_Gourmet_Food", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store", "Luxury_Beauty",
        "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden",
        "Pet_Supplies", "Prime_Pantry", "Software", "Sports_and_Outdoors", "Tools_and_Home_Improvement",
        "Toys_and_Games", "Video_Games",
    ),
    2023: (
        "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Baby_Products",
        "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories",
        "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food",
        "Handmade_Products", "Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen",
        "Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments",
        "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors",
        "Subscription_Boxes", "Tools_and_Home_Improvement", "Toys_and_Games", "Unknown", "Video_Games",
    ),
}  # fmt: skip
"""Release → category names. Source: the three distributions' index pages."""


def category_name(given: str, release: int) -> str:
    """The release's own name of a category: spelling, case and an unambiguous beginning ("sports") are forgiven.

    Raises:
        ValueError: the release has no such category; the closest and all allowed names are given.
    """
    allowed = RELEASES[release]
    wanted = _plain(given)
    exact = [name for name in allowed if _plain(name) == wanted]
    begins = [name for name in allowed if wanted and _plain(name).startswith(f"{wanted}_")]
    matches = exact or begins
    if len(matches) == 1:
        return matches[0]
    by_plain = {_plain(name): name for name in allowed}
    close = begins or [by_plain[name] for name in difflib.get_close_matches(wanted, by_plain, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"release {release} has no category {given!r}.{hint} Allowed: {', '.join(allowed)}")


def _plain(name: str) -> str:
    words = name.lower().replace("&", " and ").replace(",", " ").replace("_", " ").replace("-", " ").split()
    return "_".join(words)
