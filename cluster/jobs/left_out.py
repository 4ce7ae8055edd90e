"""Files that hold secrets, by their name or by their look: a job is not sent them."""

import re
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from cluster.config.credentials import LOOKS
from tasks.secrets import names_secret

# Matched in lower case.
_NAMES = GitIgnoreSpec.from_lines(
    (
        *(".env", ".env.*", "*.env", ".envrc", "!.env.example", "!.env.sample", "!.env.template", "!.env.dist"),
        *(".netrc", "_netrc", ".pgpass", ".my.cnf", ".pypirc", ".npmrc", ".yarnrc", ".git-credentials", ".htpasswd"),
        *(".dockercfg", ".s3cfg", ".boto", ".databrickscfg", ".vault-token", ".renviron", ".*_history"),
        *(
            "id_rsa*",
            "id_dsa*",
            "id_ecdsa*",
            "id_ed25519*",
            "!id_*.pub",
            "*.pem",
            "*.key",
            "*.p12",
            "*.pfx",
            "*.pkcs12",
        ),
        *(
            "*.pkcs12",
            "*.jks",
            "*.keystore",
            "*.kdbx",
            "*.ppk",
            "*.p8",
            "*.tfstate",
            "*.tfvars",
            "*.ovpn",
            "auth_token",
        ),
        *(".aws/", ".azure/", ".ssh/", ".gnupg/", ".kube/", ".docker/config.json", ".config/gcloud/", ".kaggle/"),
        *("token", "token.txt", "*.token", "api_key.txt", "apikey.txt", "password.txt", "passwords.txt"),
        *("kubeconfig", "kubeconfig.*", "*.kubeconfig", "kaggle.json", ".mlflow/credentials", ".huggingface/token"),
        *("credentials", "credentials.*", "!credentials.py", "service[-_]account*.json", "client_secret*.json"),
        *("secrets.y*ml", "secrets.json", "secrets.toml", "secrets.ini", "secrets.txt", "secret.y*ml", "secret.json"),
    )
)
_MARKS = (b"PRIVATE KEY", b"PuTTY-User-Key-File", b'"service_account"')  # that are read as bytes, whatever the encoding
# Source texts may talk of passwords; these hold nothing but values.
_VALUES = frozenset({"", ".yaml", ".yml", ".json", ".toml", ".ini", ".cfg", ".conf", ".properties", ".txt", ".sh"})
_ENTRY = re.compile(r"""(?m)^[ \t]*(?:export[ \t]+)?['"]?([\w.-]+)['"]?[ \t]*[:=][ \t]*['"]?([^\s'",#][^'",#\n]*)""")
_ADDRESS = re.compile(r"://[^\s/@:'\"]*:([^\s@'\"]+)@")
_PLACEHOLDER = re.compile(
    r"[$<{%*(\[].*|x+|\.+|none|null|true|false|~|todo|changeme|example|password|secret|hidden|your[-_ ].*|my[-_ ].*"
    r"|env[:.].*|os\.environ.*",
    re.I,
)
_AWS_SECRET = re.compile(r"(?i)aws_?secret_?access_?key['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9/+]{40}")
LARGEST = 2**20  # bytes of a file with values that are looked at one by one


def secret_name(name: str) -> bool:
    """Whether a file is named, or lies in a folder that is named, as files with secrets are.

    >>> [secret_name(name) for name in ("a/.env", "id_rsa", "certs/Host.PEM", ".env.example", "id_rsa.pub", "b.py")]
    [True, True, True, False, False, False]
    """
    return _NAMES.match_file(name.lower())


def secret_look(path: Path) -> str | None:
    """The kind of secret that a file holds, by the look of its contents; None if it holds none."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:64]:  # UTF-16, which Windows' tools write
        data = data.replace(b"\0", b"")
    if b"-----BEGIN" in data and b"PRIVATE KEY" in data and re.search(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY", data):
        return "a private key"
    if any(mark in data for mark in _MARKS[1:]):
        return "a private key"
    text = data.decode("utf-8", "replace")
    if LOOKS.search(text) or _AWS_SECRET.search(text):
        return "a key or token"
    return _secret_value(path, text)


def _secret_value(path: Path, text: str) -> str | None:
    if PurePosixPath(path.name).suffix.lower() not in _VALUES or len(text) > LARGEST:
        return None
    for name, value in _ENTRY.findall(text):
        if names_secret(name) and not _PLACEHOLDER.fullmatch(value.strip()):
            return f"a value for {name}"
    passwords = (password for password in _ADDRESS.findall(text) if not _PLACEHOLDER.fullmatch(password))
    return "an address with a password" if any(passwords) else None
