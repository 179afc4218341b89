"""Text is cleaned where it is HTML, and left alone where it is not; no word is broken."""

import html
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.text import clean

many = settings(max_examples=300, deadline=None)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ('<span class="a-size-medium a-color-secondary"', ""),
        ("Arts, Music &amp; Photography", "Arts, Music & Photography"),
        ("<b>Mug</b> &amp; <i>gift box</i><script>alert('x')</script>", "Mug & gift box"),
        ("<style>.a{color:red}</style>Mug<br/>red", "Mug red"),
        ("cut <scr", "cut"),
        ("cut <a href='x", "cut"),
        ("size<large and red", "size<large and red"),
        ("a <b<b<b<b<b<b>>>>>> z", "a b b z"),
        ("a <b<i>> z", "a z"),
        ("I <3 you, 1 < 2 > 0", "I <3 you, 1 < 2 > 0"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("two\n\t lines\u00a0and\u2028more\x00", "two lines and more"),
        ("caf\u00e9 \u732b \U0001f600", "caf\u00e9 \u732b \U0001f600"),
        ("half a \ud83d pair", "half a ? pair"),
        ("<!-- hidden --> seen <!-- cut", "seen"),
        ("<![CDATA[Blue Shoe]]>", "Blue Shoe"),
        ("<![CDATA[<p>Soft leather</p>]]>", "Soft leather"),
        ("Pen&notebook", "Pen&notebook"),
        ("Salt&pepper &copy; 2024 &copy2024", "Salt&pepper \u00a9 2024 &copy2024"),
        ("Size <L> shirt", "Size <L> shirt"),
        ("<p>Size <L> &amp; Pen&notebook</p>", "Size <L> & Pen&notebook"),
        ("Size <S>, or <S>old</S>", "Size , or old"),
        ("Size <S> shirt", "Size <S> shirt"),
        ("if a<b and c>d", "if a<b and c>d"),
        ("Tom <tom@shop.example>", "Tom <tom@shop.example>"),
        ("bo<b>ld</b>er<p>new</p>line<td>a</td><td>b</td>", "bolder new line a b"),
        ("<ul><li>one<li>two</ul>three", "one two three"),
        ("<p title='a>b' class=\"x\">seen</p>", "seen"),
        ("Donau\u00addampf\u00adschiff", "Donaudampfschiff"),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("new \U0001fae8\U0002ebf0 signs", "new \U0001fae8\U0002ebf0 signs"),
        ("\u200b\ufeff", ""),
        (".ap-box .x{background-color:#fff}", ""),
        ("var aPageStart = (new Date()).getTime();", ""),
        ("Mug {color: red}", "Mug {color: red}"),
    ],
)
def test_clean_text(raw, plain) -> None:
    assert clean(raw) == plain


@given(st.text(max_size=60) | st.text("<>/&;abscript! -\n", max_size=60))
@many
def test_cleaned_text_has_no_tags_no_control_characters_and_is_utf8(raw) -> None:
    plain = clean(raw)
    assert plain.encode().decode() == plain
    assert plain == " ".join(plain.split())
    assert not {unicodedata.category(character) for character in plain} & {"Cc", "Cs", "Zl", "Zp"}
    assert not re.search(r"</?(a|b|br|li|p|script|style|table)>", plain)


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=40))
@many
def test_escaping_and_cleaning_agree(raw) -> None:
    if not re.search(r"<[a-zA-Z/!]|&", raw):
        assert clean(html.escape(raw)) == raw
