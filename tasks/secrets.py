"""Recognition of names of secrets, and of secrets inside addresses."""

import re
from urllib.parse import unquote

# Names of a URI's parameters whose value nobody should see; `credential_kind` of Azure says no secret.
_ANYWHERE = "secret|key|token|passw|passphrase|pwd|signature|credential(?!_kind)|authoriz|authentic|bearer|cookie|jwt"
_WHOLE_WORD = "sig|sas|pass|auth|code|sid|pat|psk|session|sessionid|pin|otp"
_PARAMETER = re.compile(rf"{_ANYWHERE}|(?<![a-z])({_WHOLE_WORD})(?![a-z])", re.IGNORECASE)
# Names that mean a secret wherever they stand: beside parameters, a `key` or a `token` may be anything.
_PLAIN = re.compile(
    r"(?:^|.*[^a-z])(?:password|passwd|passphrase|pwd|secret|authorization|credentials?"
    r"|(?:secret|api|access|private|account|client|shared|signing|encryption)[_-]?(?:access[_-]?)?(?:key|secret)"
    r"|(?:api|access|auth|refresh|bearer|session|security|secret|client|id|bot|private|personal|github|gitlab|hf"
    r"|slack|tracking)[_-]?token)",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def names_secret_parameter(name: str) -> bool:
    """Returns whether a URI's parameter has the name of a secret; the name may be percent-encoded.

    >>> [names_secret_parameter(name) for name in ("X-Amz-Signature", "%70assword", "design")]
    [True, True, False]
    """
    return _PARAMETER.search(decoded(name)) is not None


def names_secret(name: str) -> bool:
    """Returns whether a name stands for a secret, in a configuration, the environment or a connection string.

    >>> [names_secret(name) for name in ("password", "AWS_SECRET_ACCESS_KEY", "clientSecret", "token_size", "key")]
    [True, True, True, False, False]
    """
    return _PLAIN.fullmatch(_CAMEL.sub("_", decoded(name))) is not None


def decoded(text: str) -> str:
    """Returns text without percent-encoding, also where that was applied twice."""
    for _ in range(3):
        plain = unquote(text)
        if plain == text:
            break
        text = plain
    return text


def has_secret(uri: str) -> bool:
    """Returns whether a URI holds a password, or a parameter that has the name of a secret.

    The password may contain any character, also a "/", at which a parser of URIs would begin the path. A user's
    name alone is not a secret: HDFS needs it.

    >>> has_secret("s3://AKIA:ab/cd@bucket/p"), has_secret("s3://bucket/p?region=eu-west-1")
    (True, False)
    """
    address = uri.partition("://")[2]
    rest = decoded(address)
    user = "" if rest.startswith("/") else rest.rpartition("@")[0]
    parameters = [*re.split(r"[?&;#]", address)[1:], *re.split(r"[?&;#]", rest)[1:]]
    return ":" in user or any(names_secret_parameter(parameter.partition("=")[0]) for parameter in parameters)
