"""Names, passwords and keys: refused in configurations, masked in all output and files.

One function, :func:`without_credentials`, masks all text that leaves the process: errors, warnings, descriptions of
runs, MLflow's parameters and tags, pages. It errs on the side of masking too much.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.secrets import decoded, names_secret, names_secret_parameter

MASK = "***"
SHORTEST, LONG = 6, 12  # characters: of a secret that is masked wherever it stands, and of one that may be a mere word

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*(?::[A-Za-z][\w+.-]*)*://")
_REST = re.compile(r"(?<=://)[^\s'\"]+")  # of an address in a text
_USER = re.compile(r"^(?!/)(?:.*:.*|[^/]+)@")  # a password may hold a "/" that should have been escaped
_PORT = r"\d{1,5}(?:[/?#,;'\")\]}\s]|$)"
# A password with spaces or quotes, in a text and in a text that is an address and nothing else.
_SPACED_USER = re.compile(rf"(?<=://)(?![^\s'\"]*@)[^\s/@:'\"?#]+:(?!{_PORT})(?:(?!://)[^\n@])*@(?=[\w.\[%-])")
_WHOLE_USER = re.compile(
    rf"(?<=://)(?:(?![\w-]*\.|localhost|\[)[^\s/@:?#]+:|[^\s/@:?#]+:(?!{_PORT}))[^\n]*@(?=[\w.\[%-])"
)
_NAME = r"[?&;#](?P<name>[^\s=&;#?'\"]+)="
_PARAMETER = re.compile(
    rf"{_NAME}(?P<value>(?:Bearer|Basic|Token|Digest)\s[^\s&;#'\"]+|(?:[^\s&;#'\"]+ ){{1,6}}[^\s&;#'\"]*(?=&[\w%]+=)"
    r"|[^\s&;#'\"]+)",
    re.I,
)
_WHOLE_PARAMETER = re.compile(rf"{_NAME}(?P<value>(?:(?!: |, | \()[^&;#\n])+)")
# Parameters named as elsewhere nothing but a secret is named, whether an address stands before them or not.
_HEADER = re.compile(
    r"(?P<name>\b(?:proxy-)?authorization|\b(?:set-)?cookie|\bx-[\w-]*(?:key|token|secret|auth)[\w-]*|\bapi-key)"
    r"(?![\w/-])['\"]?\s*[:=,]\s*(?:b?'(?P<single>[^'\n]+)'|b?\"(?P<double>[^\"\n]+)\"|(?P<value>[^\s'\"][^'\"\n]*))",
    re.I,
)
_BEARER = re.compile(r"\b(?P<name>Bearer|Basic)\s+(?=[A-Za-z._~+/-]*[0-9=])(?P<value>[\w.~+/=-]{6,})", re.I)
# The last part of a connection string, `Server=x;Pwd=my password`.
_LAST_OF_STRING = re.compile(r";\s*(?P<name>[\w -]+?)\s?=\s?(?P<value>[^;\n'\"]+)$", re.M)
_ASSIGNED = re.compile(
    r"(?<![\w?&.-])(?P<name>[\w.-]+)\s?=\s?(?:'(?P<single>[^'\n]*)'|\"(?P<double>[^\"\n]*)\""
    r"|(?P<value>[^;\n'\"]*(?=;\s*(?:[\w ]+=|\n|$))|[^\s,;&)\]}'\"]+))"
)
_OPTION = re.compile(r"(?<!\S)--(?P<name>[\w-]+)\s+(?P<value>[^\s-]\S*)")
_QUOTED_ENTRY = re.compile(  # of JSON and of Python's dictionaries
    r"['\"](?P<name>[\w.-]+)['\"]\s*[:,]\s*(?:'(?P<single>[^'\n]*)'|\"(?P<double>[^\"\n]*)\")"
)
_YAML_ENTRY = re.compile(
    r"^[ \t]*(?:- )?(?P<name>[\w.-]+): +(?![|>&*{\[])(?P<value>'[^'\n]*'|\"[^\"\n]*\"|\S+)[ \t]*$", re.M
)
_REFUSED = re.compile(r"^(?:error: )?(?P<name>[\w.]+): .*?\breceived (?P<value>.+)$", re.M)
_NO_VALUE = frozenset({"", "none", "null", "true", "false", "~", "''", '""', MASK})
# Keys that are recognised by their look.
LOOKS = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?"
    r"|AGE-SECRET-KEY-1[0-9A-Z]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bxox[abeprs]-[\w-]{10,}"
    r"|\bsk-(?=[\w-]*[0-9])[A-Za-z0-9_-]{20,}|\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}"
    r"|\bhf_[A-Za-z0-9]{20,}|\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{50,}"
    r"|\bdckr_pat_[\w-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\bdapi[0-9a-f]{32}\b|\bhvs\.[\w-]{20,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+"
)
_hidden: set[str] = set()


def hide(value: str) -> None:
    """Mask a value wherever it stands from now on in this process, unless it is short or a mere word."""
    if len(value) >= LONG or (len(value) >= SHORTEST and not (value.isalpha() and value.islower())):
        _hidden.add(value)


def has_credentials(text: str) -> bool:
    """Whether a text carries a user's name in an address, a password, a key or a token."""
    return _masked(text, "\0") != text


def has_password(text: str) -> bool:
    """As :func:`has_credentials`, but a user's name alone is allowed: addresses of HDFS have one."""
    return has_credentials(re.sub(r"(?<=://)[^\s:/@'\"]+@(?=[^\s/@'\"]+(?:[/?#]|$))", "", text))


def without_credentials(text: str) -> str:
    """Text in which no address carries a user's name, and in which no password, key or token is left.

    >>> without_credentials("uri: postgresql://me:sec/ret@host/db?sslkey=abc")
    'uri: postgresql://***@host/db?sslkey=***'
    >>> without_credentials("{'Authorization': 'Bearer abc'}, Server=db;Pwd=my word;Port=1")
    "{'Authorization': '***'}, Server=db;Pwd=***;Port=1"
    """
    return _masked(text, MASK)


def masked(plain: Any) -> Any:
    """Nested plain values with every text masked, and whatever has the name of a secret."""
    if isinstance(plain, str):
        return without_credentials(plain)
    if isinstance(plain, Mapping):
        return {key: MASK if _is_secret_entry(key, value) else masked(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [masked(value) for value in plain]
    return plain


def secret_entries(plain: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of nested plain values that are a secret or hold one.

    Args:
        plain: nested plain values.
        prefix: dotted key of ``plain``, with a dot at the end.
    """
    if isinstance(plain, str):
        if has_password(plain):
            yield prefix
    elif isinstance(plain, Mapping):
        for key, value in plain.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            yield from [name] if _is_secret_entry(key, value) else secret_entries(value, name)
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from secret_entries(value, prefix)


def _is_secret_entry(key: Any, value: Any) -> bool:
    return isinstance(value, str) and value.lower() not in _NO_VALUE and names_secret(str(key))


def _masked(text: str, mask: str) -> str:
    for secret in sorted(_hidden | set(_of_environment()), key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", lambda _: mask, text)
    text = LOOKS.sub(lambda _: mask, text)
    if _ADDRESS.match(text) and "\n" not in text:
        text = _WHOLE_USER.sub(lambda _: f"{mask}@", text)
        text = _replaced(_WHOLE_PARAMETER, names_secret_parameter, text, mask)
    text = _SPACED_USER.sub(lambda _: f"{mask}@", text)
    text = _REST.sub(lambda match: _USER.sub(lambda _: f"{mask}@", match[0]), text)
    for pattern, is_secret in _RULES:
        text = _replaced(pattern, is_secret, text, mask)
    return text


def _replaced(pattern: re.Pattern[str], is_secret: Callable[[str], bool], text: str, mask: str) -> str:
    """Text with the value masked wherever the pattern fits and the name is a secret's."""

    def replacement(match: re.Match[str]) -> str:
        parts = match.groupdict()
        group = next(name for name in ("single", "double", "value") if parts.get(name) is not None)
        if parts[group].strip().lower() in _NO_VALUE | {mask} or not is_secret(match["name"]):
            return match[0]
        first, last = match.start(group) - match.start(), match.end(group) - match.start()
        return match[0][:first] + mask + match[0][last:]

    return pattern.sub(replacement, text)


def _always(name: str) -> bool:
    del name
    return True


_RULES: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = (
    (_PARAMETER, names_secret_parameter),
    (_HEADER, _always),
    (_BEARER, _always),
    (_LAST_OF_STRING, names_secret),
    (_ASSIGNED, names_secret),
    (_OPTION, names_secret),
    (_QUOTED_ENTRY, names_secret),
    (_YAML_ENTRY, names_secret),
    (_REFUSED, names_secret),
)


def _of_environment() -> Iterator[str]:
    """Values of the environment's variables that are named like secrets, and passwords of addresses in it."""
    for name, value in os.environ.items():
        if names_secret(name) and not value.startswith(("/", "./", "~")):
            passwords = [value]
        elif _ADDRESS.match(value) and "@" in value:
            user = value.partition("://")[2].rpartition("@")[0]
            passwords = [user.partition(":")[2]] if not user.startswith("/") else []
        else:
            continue
        for one in {text for each in passwords for text in (each, decoded(each))}:
            if len(one) >= LONG or (len(one) >= SHORTEST and not (one.isalpha() and one.islower())):
                yield one
