"""Access to the server: a bearer token and TLS."""

import hmac
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ConfigError

VARIABLE = "METARAY_TOKEN"
SHORTEST = 16  # letters of a token


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The token that callers must send, from a file or else the environment; None where neither has one.

    Args:
        file: path of a file with the token, or None.
        environment: variables by name.

    Raises:
        ConfigError: if the file cannot be read, or the token is short or not printable ASCII.
    """
    where = f"--token-file {file}" if file is not None else VARIABLE
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file: expected a file with one token, received {file} ({error})") from error
    elif VARIABLE in environment:
        text = environment[VARIABLE]
    else:
        return None
    token = text.strip()
    if len(token) < SHORTEST or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"{where}: expected a token of at least {SHORTEST} printable ASCII letters without spaces, received "
            f"{len(token)} letters; make one with: openssl rand -hex 32"
        )
    return token.encode("ascii")


def is_allowed(authorization: str | None, token: bytes | None) -> bool:
    """Whether a header ``Authorization: Bearer TOKEN`` has the token, compared in constant time.

    Args:
        authorization: value of the header, None where there is none.
        token: expected; None: every request is allowed.
    """
    if token is None:
        return True
    scheme, _, presented = (authorization or "").partition(" ")
    return hmac.compare_digest(presented.strip().encode("utf-8"), token) and scheme.lower() == "bearer"


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with a certificate (chain) and its key, both PEM; None where neither is given.

    Args:
        certificate: PEM file of the certificate or its chain.
        key: PEM file of its key.

    Raises:
        ConfigError: if one is missing, unreadable, protected by a password, or does not fit the other.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("--certificate, --key: expected both or neither, received one of them")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise ConfigError(
            f"--certificate, --key: expected a certificate and its key without a password, both PEM, received "
            f"{certificate} and {key} ({error})"
        ) from error
    return context


def _no_password() -> bytes:
    raise ValueError("the key is protected by a password")
