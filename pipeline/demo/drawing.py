"""Pictures of products: a silhouette with a coloured pattern, lit, rotated and placed on a background."""

import colorsys
import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (206, 38, 44),
    "orange": (240, 132, 24),
    "yellow": (248, 208, 44),
    "green": (42, 150, 76),
    "blue": (40, 92, 204),
    "purple": (122, 62, 174),
    "pink": (242, 134, 182),
    "black": (44, 44, 50),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag")
_SECOND: dict[str, RGB] = {"yellow": (128, 84, 8), "pink": (150, 36, 96)}
"""Colours of stripes and dots where white would hardly show."""
_OVERSAMPLE = 2


class Canvas:
    """Three masks in unit coordinates: `body` carries the pattern; `trim` lies over it, `back` under it."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.body, self.trim, self.back, self.light = (Image.new("L", (side, side)) for _ in range(4))

    def box(self, mask: Image.Image, x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> None:
        """A rectangle with rounded corners."""
        ImageDraw.Draw(mask).rounded_rectangle(self._px(x0, y0, x1, y1), radius * self.side, fill=255)

    def oval(self, mask: Image.Image, x0: float, y0: float, x1: float, y1: float, fill: int = 255) -> None:
        """A filled ellipse; `fill=0` cuts one out."""
        ImageDraw.Draw(mask).ellipse(self._px(x0, y0, x1, y1), fill=fill)

    def ring(
        self,
        mask: Image.Image,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        width: float,
        start: float = 0,
        end: float = 360,
    ) -> None:
        """An arc of an ellipse, angles in degrees clockwise from the right."""
        ImageDraw.Draw(mask).arc(self._px(x0, y0, x1, y1), start, end, fill=255, width=round(width * self.side))

    def dome(self, mask: Image.Image, x0: float, y0: float, x1: float, y1: float, start: float, end: float) -> None:
        """A slice of an ellipse between two angles."""
        ImageDraw.Draw(mask).pieslice(self._px(x0, y0, x1, y1), start, end, fill=255)

    def shape(self, mask: Image.Image, points: list[Point]) -> None:
        """A filled polygon."""
        ImageDraw.Draw(mask).polygon([(x * self.side, y * self.side) for x, y in points], fill=255)

    def stroke(self, mask: Image.Image, points: list[Point], width: float) -> None:
        """A line through the points."""
        scaled = [(x * self.side, y * self.side) for x, y in points]
        ImageDraw.Draw(mask).line(scaled, fill=255, width=max(1, round(width * self.side)), joint="curve")

    def _px(self, *values: float) -> list[float]:
        return [value * self.side for value in values]


def _mug(c: Canvas) -> None:
    c.ring(c.body, 0.54, 0.38, 0.84, 0.68, 0.055)
    c.box(c.body, 0.22, 0.27, 0.68, 0.80, 0.07)
    c.oval(c.trim, 0.22, 0.22, 0.68, 0.34)
    c.oval(c.body, 0.22, 0.22, 0.68, 0.34)


def _bowl(c: Canvas) -> None:
    c.box(c.back, 0.38, 0.74, 0.62, 0.82, 0.02)
    c.dome(c.body, 0.14, 0.06, 0.86, 0.78, 0, 180)
    c.oval(c.trim, 0.14, 0.36, 0.86, 0.48)
    c.oval(c.body, 0.14, 0.36, 0.86, 0.48)


def _vase(c: Canvas) -> None:
    profile = [(0.12, 0.13), (0.18, 0.09), (0.28, 0.08), (0.40, 0.17), (0.55, 0.24), (0.70, 0.21), (0.82, 0.12)]
    c.shape(c.body, _turned([*profile, (0.86, 0.13)]))
    c.oval(c.body, 0.37, 0.09, 0.63, 0.15)
    c.oval(c.trim, 0.39, 0.10, 0.61, 0.14)


def _lamp(c: Canvas) -> None:
    c.box(c.back, 0.47, 0.48, 0.53, 0.82)
    c.box(c.back, 0.33, 0.80, 0.67, 0.87, 0.03)
    c.shape(c.body, [(0.34, 0.12), (0.66, 0.12), (0.84, 0.54), (0.16, 0.54)])


def _shirt(c: Canvas) -> None:
    left = [(0.38, 0.16), (0.26, 0.20), (0.08, 0.40), (0.20, 0.52), (0.29, 0.44), (0.28, 0.86)]
    c.shape(c.body, left + [(1 - x, y) for x, y in reversed(left)])
    c.dome(c.trim, 0.38, 0.08, 0.62, 0.27, 0, 180)


def _bag(c: Canvas) -> None:
    c.ring(c.back, 0.32, 0.10, 0.68, 0.64, 0.04, 180, 360)
    c.shape(c.body, [(0.20, 0.36), (0.80, 0.36), (0.86, 0.88), (0.14, 0.88)])
    c.box(c.trim, 0.20, 0.36, 0.80, 0.42)


def _cap(c: Canvas) -> None:
    c.shape(c.back, [(0.46, 0.58), (0.78, 0.55), (0.96, 0.64), (0.95, 0.70), (0.72, 0.66), (0.44, 0.68)])
    c.dome(c.body, 0.12, 0.24, 0.78, 0.98, 180, 360)
    c.box(c.body, 0.12, 0.58, 0.78, 0.67, 0.02)
    c.oval(c.trim, 0.42, 0.21, 0.48, 0.26)


def _cushion(c: Canvas) -> None:
    sides = [(0.13, 0.15), (0.5, 0.21), (0.87, 0.15), (0.81, 0.5), (0.87, 0.85), (0.5, 0.79), (0.13, 0.85), (0.19, 0.5)]
    c.shape(c.body, _smooth(sides))
    for x, y in ((0.12, 0.14), (0.88, 0.14), (0.12, 0.86), (0.88, 0.86)):
        c.oval(c.back, x - 0.045, y - 0.045, x + 0.045, y + 0.045)


def _clock(c: Canvas) -> None:
    c.oval(c.body, 0.12, 0.12, 0.88, 0.88)
    c.oval(c.light, 0.29, 0.29, 0.71, 0.71)
    c.stroke(c.trim, [(0.5, 0.5), (0.5, 0.34)], 0.03)
    c.stroke(c.trim, [(0.5, 0.5), (0.61, 0.57)], 0.03)
    for hour in range(0, 360, 90):
        x, y = 0.5 + 0.175 * math.cos(math.radians(hour)), 0.5 + 0.175 * math.sin(math.radians(hour))
        c.oval(c.trim, x - 0.012, y - 0.012, x + 0.012, y + 0.012)


def _umbrella(c: Canvas) -> None:
    c.stroke(c.back, [(0.5, 0.10), (0.5, 0.82)], 0.03)
    c.ring(c.back, 0.5 - 0.015, 0.74, 0.64, 0.90, 0.03, 0, 180)
    c.dome(c.body, 0.08, 0.14, 0.92, 0.90, 180, 360)
    for x in (0.08, 0.29, 0.50, 0.71):
        c.oval(c.body, x, 0.46, x + 0.21, 0.58, fill=0)


KINDS: dict[str, Callable[[Canvas], None]] = {
    "mug": _mug, "bowl": _bowl, "vase": _vase, "lamp": _lamp, "shirt": _shirt,
    "bag": _bag, "cap": _cap, "cushion": _cushion, "clock": _clock, "umbrella": _umbrella,
}  # fmt: skip


def picture(kind: str, colour: str, pattern: str, scale: float, random_: random.Random, side: int) -> Image.Image:
    """Draw one product.

    Args:
        scale: the product's share of the picture's width, 0.5 to 1.
        random_: decides stripe widths, light, rotation, position and background.
        side: width and height, pixels.

    Returns:
        RGB image, anti-aliased by drawing at twice the size.
    """
    large = side * _OVERSAMPLE
    product = _product(kind, colour, pattern, random_, large)
    turn, span = random_.uniform(-9, 9), round(large * scale)
    product = product.rotate(turn, Image.Resampling.BICUBIC).resize((span, span), Image.Resampling.LANCZOS)
    slack = large - span
    place = (round(slack * random_.uniform(0.25, 0.75)), round(slack * random_.uniform(0.35, 0.8)))
    scene = _background(random_, large)
    _cast_shadow(scene, product, place)
    scene.paste(product, place, product)
    return scene.resize((side, side), Image.Resampling.LANCZOS)


def _product(kind: str, colour: str, pattern: str, random_: random.Random, side: int) -> Image.Image:
    """RGBA picture of the product alone."""
    canvas = Canvas(side)
    KINDS[kind](canvas)
    base = COLOURS[colour]
    dark = _shade(base, 0.62)
    neutral = random_.choice([(120, 92, 66), (92, 96, 104), (168, 150, 120)])
    product = Image.new("RGB", (side, side), dark)
    product.paste(neutral if kind in ("lamp", "umbrella", "bag") else dark, mask=canvas.back)
    product.paste(_fabric(base, colour, pattern, random_, side), mask=canvas.body)
    product.paste((250, 248, 240), mask=canvas.light)
    product.paste(dark if colour != "black" else (20, 20, 24), mask=canvas.trim)
    alpha = ImageChops.lighter(canvas.body, canvas.back)
    combine = ImageChops.subtract if kind == "shirt" else ImageChops.lighter  # a shirt's collar is an opening
    alpha = combine(alpha, canvas.trim)
    lit = _light(product, random_)
    lit.putalpha(alpha)
    return lit


def _fabric(base: RGB, colour: str, pattern: str, random_: random.Random, side: int) -> Image.Image:
    """`base` all over, with the pattern in a second colour."""
    varied = (max(0, min(255, channel + random_.randint(-12, 12))) for channel in base)
    cloth = Image.new("RGB", (side, side), tuple(varied))
    second = _SECOND.get(colour, (248, 246, 240))
    pen = ImageDraw.Draw(cloth)
    step = side * random_.uniform(0.10, 0.15)
    rows = [index * step for index in range(-1, round(side / step) + 2)]
    if pattern == "striped":
        for y in rows:
            pen.rectangle((0, y, side, y + step * 0.38), fill=second)
    elif pattern == "dotted":
        for number, y in enumerate(rows):
            for x in rows:
                shift = step / 2 * (number % 2)
                pen.ellipse((x + shift, y, x + shift + step * 0.5, y + step * 0.5), fill=second)
    elif pattern == "checked":
        for i, y in enumerate(rows):
            for x in rows[i % 2 :: 2]:
                pen.rectangle((x, y, x + step, y + step), fill=second)
    elif pattern == "zigzag":
        for y in rows[::2]:
            points = [(x, y + (step * 0.8 if i % 2 else 0)) for i, x in enumerate(rows)]
            pen.line(points, fill=second, width=round(step * 0.4), joint="curve")
    return cloth


def _light(product: Image.Image, random_: random.Random) -> Image.Image:
    """Light from one side: brighter there, darker away from it."""
    side = product.width
    across = np.linspace(1.10, 0.78, side, dtype=np.float32)
    if random_.random() < 0.5:
        across = across[::-1]
    down = np.linspace(1.04, 0.94, side, dtype=np.float32)
    lit = np.asarray(product, dtype=np.float32) * (down[:, None] * across[None, :])[..., None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _background(random_: random.Random, side: int) -> Image.Image:
    """A pale wall above a pale floor, of one hue."""
    hue, saturation = random_.random(), random_.uniform(0.03, 0.22)
    wall = np.array(colorsys.hsv_to_rgb(hue, saturation, random_.uniform(0.88, 0.98)), dtype=np.float32) * 255
    floor = wall * random_.uniform(0.80, 0.94)
    fade = np.linspace(1.02, 0.92, side, dtype=np.float32)[:, None, None]
    scene = np.broadcast_to(wall, (side, side, 3)) * fade
    horizon = round(side * random_.uniform(0.58, 0.78))
    scene[horizon:] = floor * np.linspace(0.95, 1.05, side - horizon, dtype=np.float32)[:, None, None]
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def _cast_shadow(scene: Image.Image, product: Image.Image, place: tuple[int, int]) -> None:
    left, _, right, bottom = product.getchannel("A").getbbox() or (0, 0, 1, 1)
    shadow = Image.new("L", scene.size)
    height = (right - left) * 0.09
    x0, x1, y = place[0] + left, place[0] + right, place[1] + bottom
    ImageDraw.Draw(shadow).ellipse((x0 + height, y - height, x1 - height * 0.2, y + height * 0.8), fill=110)
    scene.paste((40, 36, 44), mask=shadow.filter(ImageFilter.GaussianBlur(scene.width * 0.018)))


def _turned(profile: list[Point]) -> list[Point]:
    """The outline of a body of revolution from (height, half width) pairs."""
    heights, widths = zip(*profile, strict=True)
    ys = np.linspace(heights[0], heights[-1], 60)
    half = np.interp(ys, heights, widths)
    half = np.convolve(np.pad(half, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    right = [(0.5 + float(w), float(y)) for y, w in zip(ys, half, strict=True)]
    return right + [(1 - x, y) for x, y in reversed(right)]


def _smooth(points: list[Point]) -> list[Point]:
    """A closed Catmull-Rom curve through the points."""
    curve: list[Point] = []
    n = len(points)
    for i in range(n):
        p0, p1, p2, p3 = (np.array(points[(i + j) % n]) for j in (-1, 0, 1, 2))
        for t in np.linspace(0, 1, 12, endpoint=False):
            quadratic, cubic = 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * p1 - p0 - 3 * p2 + p3
            point = 0.5 * (2 * p1 + (p2 - p0) * t + quadratic * t**2 + cubic * t**3)
            curve.append((float(point[0]), float(point[1])))
    return curve


def _shade(colour: RGB, factor: float) -> RGB:
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue
