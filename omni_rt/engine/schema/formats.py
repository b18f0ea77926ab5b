"""Formats of strings, as patterns in the form of pattern.py. Each allows a part of what its standard does, no more."""

from __future__ import annotations

_DIGIT = "[0-9]"
_YEAR = "[1-9][0-9]{3}"
_LEAP = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|{_YEAR}-(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    f"{_YEAR}-02-(?:0[1-9]|1[0-9]|2[0-8])|{_LEAP}-02-29)"
)
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+\\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9\\-]{0,61}[a-zA-Z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,7}}"
_HEX = "[0-9a-fA-F]"
_WORD = "[a-zA-Z0-9_+\\-]+"
_PATH = "(?:[a-zA-Z0-9\\-._~!$&'()*+,;=:@\\/]|%[0-9a-fA-F]{2})*"
_AFTER = "(?:[a-zA-Z0-9\\-._~!$&'()*+,;=:@\\/?]|%[0-9a-fA-F]{2})*"
_URI = f"[a-zA-Z][a-zA-Z0-9+.\\-]*:\\/\\/{_HOST}(?::{_DIGIT}{{1,5}})?(?:\\/{_PATH})?(?:\\?{_AFTER})?(?:#{_AFTER})?"
_CLOCK = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DAYS = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"

FORMATS: dict[str, str] = {
    name: f"^{pattern}$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": f"P(?:{_DAYS}(?:{_CLOCK})?|{_CLOCK}|[0-9]+W)",
        "email": f"{_WORD}(?:\\.{_WORD})*@{_HOST}",
        "hostname": _HOST,
        "ipv4": f"{_BYTE}(?:\\.{_BYTE}){{3}}",
        "ipv6": f"{_HEX}{{1,4}}(?::{_HEX}{{1,4}}){{7}}",
        "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
        "uri": _URI,
    }.items()
}
