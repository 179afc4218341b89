"""Raw text to plain text: HTML parsed where the text is HTML, and left alone where it is not."""

import html
import re
import unicodedata
from typing import Literal

from selectolax.lexbor import LexborHTMLParser  # HTML5 as browsers read it, in C

_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_CLOSED_BY_THE_NEXT = frozenset(["dd", "dt", "li", "option", "p", "tbody", "td", "tfoot", "th", "thead", "tr"])
"""Elements whose end tag HTML leaves out."""
_INLINE = frozenset(
    """
    a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr q s samp small span
    strike strong sub sup time tt u var wbr
""".split()  # noqa: SIM905 - a line per word is no easier to read
)
"""Elements that may stand within a word; around any other there is a blank."""
_UNSEEN = frozenset(["noscript", "script", "style", "template"])
"""Elements whose content a browser does not show."""
_ELEMENTS = (
    _VOID
    | _CLOSED_BY_THE_NEXT
    | _INLINE
    | _UNSEEN
    | frozenset(
        """
    address article aside audio blockquote body button canvas caption center colgroup details div dl fieldset
    figcaption figure footer form h1 h2 h3 h4 h5 h6 header html iframe legend main map nav object ol param
    picture pre section select summary svg table textarea title ul video
""".split()  # noqa: SIM905 - a line per word is no easier to read
    )
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)(\s[^<>]*|/)?>")
_CUT_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)(\s+[\w:-]+\s*=[^<>]*|\s*)$")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|$)", re.DOTALL)
_COMMENT = re.compile(r"<!--|<!doctype\b|<\?xml\b", re.IGNORECASE)
_BRACKET = re.compile("<")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_BARE = re.compile(rf"&(?!{_ENTITY.pattern[1:]})")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CODE = re.compile(
    r"\s*(?:(?:[.#@][\w-]+|body|html|div|span|img|table|td|a|p|ul|li|h[1-6])[^{}<>]*\{[^{}]*:[^{}]*\}"
    r"|(?:var|let|const)\s+[\w$]+\s*=|\(?function\s*\w*\([^()]*\)\s*\{|(?:window|document)\.\w+|(?:\$|jQuery)\((?:function|document))"
)
"""How a style sheet or a script begins."""
_FLAGS = frozenset(["async", "checked", "controls", "disabled", "hidden", "noshade", "nowrap", "required", "selected"])
"""Attributes without a value."""
_INVISIBLE = "\u00ad\ufeff\u2060"
"""Soft hyphen, byte order mark and word joiner: shown as nothing within a word."""
_PASSES = 4
"""Times that tags inside tags, or escaped tags, are looked for; what then remains of them loses its brackets."""

Repair = Literal["", "html", "entities", "code"]


def clean(text: str) -> str:
    """As `plain`, the text alone."""
    return plain(text)[0]


def plain(text: str) -> tuple[str, Repair]:
    """Plain text, and what it was repaired of.

    Entities are resolved (with their semicolon only), CDATA is opened, control characters and white space become single
    spaces. Invisible hyphens are removed; joiners and characters that this Python does not know stay.

    A text is HTML if it has a tag of a known element, in lower case, with attributes, closed, or one that needs no end
    tag. Then a parser reads it, and scripts and styles are left out. `Size <L> shirt` has no tag. A text that is itself
    a script or a style sheet has no words.
    """
    repair: Repair = ""
    if "<![CDATA[" in text:
        text, repair = _CDATA.sub(r"\1", text), "html"
    if "<" in text or "&" in text:
        text, markup = _without_markup(text)
        repair = repair or markup
    if ("{" in text or "=" in text or "(" in text) and _CODE.match(text):
        return "", "code"
    if not text.isprintable():
        # A lone surrogate is legal in JSON's escapes but not in UTF-8.
        text = _BREAKS.sub(" ", text.encode(errors="replace").decode())
        text = _without_ends(text.translate(dict.fromkeys(map(ord, _INVISIBLE))))
    return " ".join(text.split()), repair


def _without_markup(text: str) -> tuple[str, Repair]:
    repair: Repair = ""
    for _ in range(_PASSES):
        if "<" in text and _is_html(text):
            text, repair = _parsed(text), "html"
        elif "&" in text and (resolved := _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)) != text:
            text, repair = resolved, repair or "entities"
        else:
            return text, repair
    return (text.translate({ord("<"): " ", ord(">"): " "}) if _is_html(text) else text), repair


def _is_html(text: str) -> bool:
    return (
        _COMMENT.search(text) is not None
        or any(_is_tag(tag, text) for tag in _TAG.finditer(text))
        or _cut_tag(text) is not None
    )


def _is_tag(tag: re.Match[str], text: str) -> bool:
    name = tag[2].lower()
    if name not in _ELEMENTS:
        return False
    attributes = (tag[3] or "").strip().strip("/")
    if attributes:
        return "=" in attributes or attributes in _FLAGS
    if tag[1] or tag[2] == name or name in _VOID or name in _CLOSED_BY_THE_NEXT:
        return True
    return f"</{name}>" in text.lower()


def _cut_tag(text: str) -> re.Match[str] | None:
    """A tag at the end that was cut off: known by its attributes, or by at least the first three letters of a name."""
    tag = _CUT_TAG.search(text)
    if tag is None:
        return None
    name = tag[1].lower()
    whole = name in _ELEMENTS and ("=" in tag[2] or len(name) > 1)
    return tag if whole or (len(name) > 2 and not tag[2] and any(each.startswith(name) for each in _ELEMENTS)) else None


def _parsed(text: str) -> str:
    """The words of HTML. What looks like a tag and is none, and an ampersand that begins no entity, are text."""
    if tag := _cut_tag(text):
        text = text[: tag.start()]
    tags = {tag.start(): tag for tag in _TAG.finditer(text) if _is_tag(tag, text)}
    comments = {comment.start() for comment in _COMMENT.finditer(text)}

    def bracket(match: re.Match[str]) -> str:
        place = match.start()
        if tag := tags.get(place):
            return "<" if tag[2].lower() in _INLINE else " <"
        return "<" if place in comments else "&lt;"

    escaped = _BRACKET.sub(bracket, text)
    # A break is a blank; the parser drops the tags of a table that stand outside one.
    tree = LexborHTMLParser(f"<body>{_BARE.sub('&amp;', escaped)}")
    for node in tree.css(",".join(_UNSEEN)):
        node.decompose()
    return tree.root.text(separator="") if tree.root else ""


def _without_ends(text: str) -> str:
    """Without invisible characters around the whole text, such as a zero-width space that is a title's only one."""
    start, end = 0, len(text)
    while start < end and _is_unseen(text[start]):
        start += 1
    while end > start and _is_unseen(text[end - 1]) and text[end - 1] not in "\u200d\u200c":
        end -= 1
    return text[start:end]


def _is_unseen(character: str) -> bool:
    return character.isspace() or (unicodedata.category(character) == "Cf" and character < "\U000e0000")
