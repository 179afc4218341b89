"""Titles, descriptions, brands and prices of the demo's products."""

import random

from schemas.demo import DemoConfig

BRANDS: dict[str, str] = {
    "Tidewater": "the seaside",
    "Pinecamp": "camping in the woods",
    "Ledger & Loft": "the home office",
    "Gardenia": "garden parties",
    "Velvet Hour": "long evenings by candlelight",
    "Skylark Kids": "children's rooms",
}
"""Brand → the occasion its descriptions speak of."""

CATEGORIES: dict[str, list[str]] = {
    "mug": ["Kitchen", "Mugs"], "bowl": ["Kitchen", "Bowls"], "vase": ["Home", "Vases"], "lamp": ["Home", "Lamps"],
    "cushion": ["Home", "Cushions"], "clock": ["Home", "Clocks"], "shirt": ["Clothing", "Shirts"],
    "cap": ["Clothing", "Caps"], "bag": ["Accessories", "Bags"], "umbrella": ["Accessories", "Umbrellas"],
}  # fmt: skip

_KIND = {
    "mug": ("Mug", "Cup", "Coffee Mug"), "bowl": ("Bowl", "Serving Bowl", "Dish"), "vase": ("Vase", "Flower Vase"),
    "lamp": ("Lamp", "Table Lamp", "Desk Light"), "cushion": ("Cushion", "Throw Pillow"),
    "clock": ("Clock", "Wall Clock"), "shirt": ("T-Shirt", "Tee", "Shirt"), "cap": ("Cap", "Baseball Cap"),
    "bag": ("Tote Bag", "Shopper", "Bag"), "umbrella": ("Umbrella", "Rain Umbrella"),
}  # fmt: skip
_COLOUR = {
    "red": ("Red", "Crimson"), "orange": ("Orange", "Tangerine"), "yellow": ("Yellow", "Mustard"),
    "green": ("Green", "Emerald"), "blue": ("Blue", "Royal Blue"), "purple": ("Purple", "Violet"),
    "pink": ("Pink", "Rose"), "black": ("Black", "Charcoal"),
}  # fmt: skip
_PATTERN = {
    "plain": ("Plain", "Solid"), "striped": ("Striped", "Stripe"), "dotted": ("Dotted", "Polka Dot"),
    "checked": ("Checked", "Chequered"), "zigzag": ("Zigzag", "Chevron"),
}  # fmt: skip
_MATERIAL = {
    "mug": "glazed stoneware", "bowl": "glazed stoneware", "vase": "hand-thrown ceramic", "lamp": "linen and steel",
    "cushion": "soft cotton", "clock": "powder-coated steel", "shirt": "organic cotton", "cap": "cotton twill",
    "bag": "heavy canvas", "umbrella": "recycled polyester",
}  # fmt: skip
_NAMES = ("Alma", "Juno", "Otto", "Freya", "Milo", "Iris", "Bruno", "Nora", "Hugo", "Selma")
_PRICE = {
    "mug": 14, "bowl": 22, "vase": 34, "lamp": 58, "cushion": 24, "clock": 39, "shirt": 26, "cap": 19, "bag": 29,
    "umbrella": 32,
}  # fmt: skip
"""Middle prices, euros."""


def title(kind: str, colour: str, pattern: str, random_: random.Random, config: DemoConfig) -> str:
    """A product's title, which may leave out the colour or the pattern, or be only a name."""
    name = f"{random_.choice(_NAMES)} No. {random_.randint(1, 9)}"
    parts = [
        random_.choice(_COLOUR[colour]) if random_.random() >= config.colour_unsaid else "",
        random_.choice(_PATTERN[pattern]) if random_.random() >= config.pattern_unsaid else "",
        random_.choice(_KIND[kind]),
    ]
    if random_.random() < config.kind_unsaid:
        return name
    plain = " ".join(part for part in parts if part)
    return f"{plain} {name.split()[0]}" if random_.random() < 0.3 else plain


def description(kind: str, pattern: str, brand: str, random_: random.Random) -> str:
    """Two or three sentences on the material and the brand's occasion; never the colour, sometimes the pattern."""
    made = f"Made of {_MATERIAL[kind]}, {random_.choice(('built to last', 'easy to care for', 'a pleasure to hold'))}."
    patterned = f" With a {_PATTERN[pattern][-1].lower()} design." if random_.random() < 0.3 else ""
    occasion = random_.choice(("Our favourite for", "Designed for", "Made with love for"))
    return f"{occasion} {BRANDS[brand]}. {made}{patterned}"


def price(kind: str, random_: random.Random) -> float:
    """Euros, two decimals, around the kind's middle price."""
    return round(_PRICE[kind] * random_.uniform(0.7, 1.6)) - 0.05
