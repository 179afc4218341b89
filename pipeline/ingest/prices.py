"""Prices: a number that is certain, or none.

price-parser takes the first number of a text ("2 for $5" is 2, "3 x 12.99" is 3, "2024-05-01" is 2024), so it is not
used.
"""

import re
import unicodedata
from typing import Any

_CODES = """
    AED AFN AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
    CHF CLP CNY COP CRC CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD
    HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD
    LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK
    PHP PKR PLN PYG QAR RMB RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB
    TJS TMT TND TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWL
""".split()  # noqa: SIM905 - a line per word is no easier to read
"""ISO 4217 and RMB, without what may be words: ALL, CUP, TOP."""
_SIGNS = (
    "AU A C CA HK MX NT NZ R S SG US Z",
    "Rs. Rs Rp Rp. RM R Php kr kr. Kr Kr. Kč zł zl Ft lei Lei лв лв. руб руб. р. грн грн. TL SFr. SFr Fr. Fr "
    "Ksh KSh Tk Bs Bs. S/ S/. B/. din. dinars ден. ден € euro euros Euro Euros dollars dollar pounds yen "
    "元 円 圓 원 đ د.إ ر.س د.ك ج.م دج ₺ kn Lt",
)
"""Letters before a dollar sign; and other signs and words that stand for a currency."""
_CURRENCY = (
    "(?:"
    + "|".join(
        [
            rf"(?:{'|'.join(_SIGNS[0].split())})?\s?[$£]",
            *(re.escape(sign) for sign in sorted(_SIGNS[1].split(), key=len, reverse=True)),
            "[¢¤¥€₠-⃀฿៛﷼￥￦]",
            *_CODES,
            "usd|eur|gbp|inr|Usd|Eur",
        ]
    )
    + ")"
)
_NUMBER = r"\d(?:[\d.,' ]*\d)?"
_WHOLE = r"(?:[.,:]\s?[-–—]{1,2})?"
"""`199,-` and `199:-`."""
_ONE = re.compile(
    rf"(?:{_CURRENCY}\s*){{0,2}}(?P<number>{_NUMBER}){_WHOLE}\s*(?:{_CURRENCY}\s*){{0,2}}(?:/\s?[a-zA-Z]{{1,5}}\.?)?"
)
_RANGE = re.compile(r"(.+?)\s*[-–—]\s*(.+)")
_PLAIN = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_CENTS = re.compile(r"[.,](?:\d{1,2}|\d{4,})$")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}([.,' ])\d{3}(?:\1\d{3})*")
_LAKHS = re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}")
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2007\u2009\u202f", " ") | {"\u2019": "'", "\u066b": ".", "\u066c": ","})
_LARGEST = 1e12


def price(value: Any) -> float | None:
    """A number; or text that is one number, with or without a currency ("$12.99 - $20.00": the lower one; "3.50/lb").

    Anything else in the text leaves no price: "2 for $5", "10% off", "2024-05-01", "1.5K". A last mark before one or
    two digits, or more than three, is the decimal mark ("1,299.00", "1.299,00", "7,5", "23,900000"). Marks before three
    digits group thousands, in India also lakhs ("1,49,999"), with two exceptions: a single point is decimal in a bare
    number ("1.299"), as computers write it, and ambiguous beside a currency; a mark after a lone zero ("0,999") is
    ambiguous. What is ambiguous is no price.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        number = float(value) if abs(value) < _LARGEST else None  # also for NaN
    else:
        number = _amount(value) if isinstance(value, str) else None
    return number if number is not None and 0 <= number < _LARGEST else None


def _amount(text: str) -> float | None:
    text = text.translate(_SPACES).strip()
    if not text.isascii():
        text = "".join(map(_digit, text))
    if _PLAIN.fullmatch(text):
        return float(text)
    if one := _ONE.fullmatch(text):
        return _number(one["number"])
    return _lower(text)


def _lower(text: str) -> float | None:
    """The lower of two prices, of which at least one has a currency: `2024-05` has none."""
    ends = _RANGE.fullmatch(text)
    matches = [_ONE.fullmatch(end) for end in ends.groups()] if ends else []
    numbers = [_number(each["number"]) for each in matches if each]
    if len(numbers) < 2 or None in numbers or all(each and each["number"] == each[0] for each in matches):
        return None
    low, high = (number or 0.0 for number in numbers)
    return low if low <= high else None


def _number(digits: str) -> float | None:
    if re.fullmatch(r"\d+(\.\d\d?)?", digits):
        return float(digits)
    cents = _CENTS.search(digits)
    whole = digits[: cents.start()] if cents else digits
    grouped = _THOUSANDS.fullmatch(whole)
    is_one_group = grouped is not None and grouped[1] == "." and whole.count(".") == 1
    if cents and grouped and cents[0][0] == grouped[1]:
        return None
    if is_one_group and not cents:
        return None
    if not whole.isdigit() and not grouped and not _LAKHS.fullmatch(whole):
        return None
    return float(re.sub(r"\D", "", whole) + ("." + cents[0][1:] if cents else ""))


def _digit(character: str) -> str:
    """A digit of any script as 0 to 9."""
    return character if character.isascii() else str(unicodedata.decimal(character, character))
