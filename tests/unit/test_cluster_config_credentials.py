"""Secrets in addresses are recognised and taken out, and nothing else is."""

import pytest
import typer

from cluster.commands.console import reports_errors
from cluster.config import credentials as secrets
from cluster.config.credentials import has_credentials, without_credentials
from cluster.config.overrides import with_values
from cluster.config.schema import parse, require_no_secrets
from cluster.errors import ConfigError, MetarayError
from cluster.progress import warn
from cluster.runs.folder import read_json, write_json
from tasks.secrets import has_secret

SECRET = {
    "postgresql://me:hidden@host/db": "postgresql://***@host/db",
    "https://hidden@host/x": "https://***@host/x",
    "s3://AKIA:hid/hidden@bucket/p": "s3://***@bucket/p",
    "s3://AKIA:hid@hidden@bucket/p": "s3://***@bucket/p",
    "s3://bucket/p?secret=hidden&region=x": "s3://bucket/p?secret=***&region=x",
    "https://host/p?a=1&client_secret=hidden": "https://host/p?a=1&client_secret=***",
    "https://host/p?X-Amz-Signature=hidden": "https://host/p?X-Amz-Signature=***",
    "https://host/p?sv=1&sig=hidden%3D": "https://host/p?sv=1&sig=***",
    "https://host/p?access_key=hidden;x=1": "https://host/p?access_key=***;x=1",
    "https://host/p#token=hidden": "https://host/p#token=***",
}
PLAIN = [
    "http://127.0.0.1:5000",
    "ray://head:10001",
    "sqlite:////home/me@corp/a:b/mlflow.db",
    "sqlite:///C:/me@corp/mlflow.db",
    "https://host/p?design=1&author=x&credential_kind=cli&passage=3",
    "file:///data/keys/secret",
    "local",
]


@pytest.mark.parametrize(("address", "shown"), SECRET.items())
def test_secrets_are_recognised_and_taken_out(address, shown):
    assert has_credentials(address)
    for text in ("{}", "uri: {}\nother: me@host: x", "cannot reach '{}': refused", 'x = "{}"'):
        assert without_credentials(text.format(address)) == text.format(shown)


@pytest.mark.parametrize("address", PLAIN)
def test_other_addresses_are_left_as_they_are(address):
    assert not has_credentials(address)
    assert without_credentials(f"uri: {address}\nmail: me@host") == f"uri: {address}\nmail: me@host"


@pytest.mark.parametrize("address", [*SECRET, *PLAIN])
def test_stores_refuse_the_same(address):
    """Apart from a user's name, which HDFS needs."""
    assert has_secret(address) == (has_credentials(address) and "://hidden@" not in address)


LEAKS = [
    "https://host/p?authorization=hidden",
    "https://host/p?authorization=Bearer hidden1",
    "https://host/p?code=hidden&x=1",
    "https://host/p?%70assword=hidden",
    "https://host/p?%2570assword=hidden",
    "https://host/p?password=my hidden word&x=1",
    "postgresql://me:my hidden word@host/db",
    "postgresql://me:hid'den@host/db",
    "redis://:hidden@host:1",
    "jdbc:postgresql://host/db?user=me&password=hidden",
    "Authorization: Bearer hidden",
    "{'Authorization': 'Basic hidden='}",
    'X-Api-Key: "hidden"',
    "Cookie: session=hidden; other=hidden",
    "Bearer hidden1",
    "Server=db;Uid=me;Pwd=my hidden word;",
    "Server=db;Uid=me;Pwd=my hidden word",
    "host=h user=me password='my hidden word' dbname=x",
    "AccountName=x;AccountKey=hidden==;EndpointSuffix=core",
    "--password hidden",
    "AWS_SECRET_ACCESS_KEY=hidden",
    "password: hidden",
    '{"clientSecret": "hidden"}',
    "task.password: expected a number, received 'hidden'",
    "a key AKIAHIDDENHIDDENHIDD here",
    "ghp_" + "hidden" * 6,
    "-----BEGIN OPENSSH PRIVATE KEY-----\nhidden\n-----END OPENSSH PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", LEAKS)
@pytest.mark.parametrize("around", ["{}", "cannot go on: {}", "first\n{}\nlast"])
def test_secrets_are_masked_whatever_carries_them(text, around):
    given = around.format(text)
    if text.startswith(("Server=", "password:", "task.")) and around.startswith("cannot"):
        given = f"cannot go on:\n{text}"  # they are known by their place in a line
    shown = without_credentials(given)
    assert "hidden" not in shown.lower()
    assert has_credentials(given)
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach http://127.0.0.1:5000 and mail me@host",
        "model.token_size=5 keys=3 key=4",
        "token: cls",
        "Bearer authentication required",
        "inner.lr: expected a number, received 'fast'",
        "password: none",
        "https://host/p?encode=1&zipcode=2",
    ],
)
def test_what_is_no_secret_stays(text):
    assert without_credentials(text) == text
    assert not has_credentials(text)


def test_secrets_of_the_environment_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hid/den 1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pass%20w0rd@host")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token-file")
    monkeypatch.setenv("RAY_AUTH_MODE", "token-mode")
    text = "login with hid/den 1 or pass w0rd or pass%20w0rd failed; see /var/run/token-file and token-mode"
    assert without_credentials(text) == "login with *** or *** or *** failed; see /var/run/token-file and token-mode"
    secrets.hide("of --env")
    assert without_credentials("a value of --env here") == "a value *** here"
    monkeypatch.setattr(secrets, "_hidden", set())


def test_descriptions_are_written_without_secrets(tmp_path):
    write_json(
        tmp_path / "run.json",
        {"a": ["postgresql://me:hidden@host"], "password": "hidden", "b": {"c": "?", "n": 3, "api_key": None}},
    )
    assert read_json(tmp_path / "run.json") == {
        "a": ["postgresql://***@host"],
        "password": "***",
        "b": {"c": "?", "n": 3, "api_key": None},
    }


CONFIG = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 2,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.root", "s3://AKIA:hidden@bucket/p"),
        ("task.password", "hidden"),
        ("model.url", "https://host/w?code=hidden"),
        ("cluster.address", "ray://me:hidden@head:10001"),
        ("tracking.experiment", "postgresql://me:my hidden word@host/db"),
        ("task.sources", ["https://host/w", "https://host/w?authorization=hidden"]),
    ],
)
def test_a_configuration_holds_no_secret_anywhere(key, value):
    with pytest.raises(ConfigError) as raised:
        require_no_secrets(with_values(CONFIG, {key: value}))
    assert str(raised.value).startswith(f"{key}: expected no password, key or token")
    assert "hidden" not in str(raised.value)
    require_no_secrets(CONFIG | {"task": {"root": "hdfs://me@host/data"}})
    with pytest.raises(ConfigError):
        parse(with_values(CONFIG, {"cluster.address": "ray://me:hidden@head:10001"}))


@pytest.mark.parametrize("debug", [False, True])
def test_errors_are_shown_without_secrets(capsys, debug):
    @reports_errors
    def command(debug: bool) -> None:
        warn("old password=hidden")
        raise MetarayError("cannot reach https://host/p?code=hidden")

    with pytest.raises(typer.Exit):
        command(debug=debug)
    shown = capsys.readouterr().err
    assert "hidden" not in shown.replace('reach https://host/p?code=hidden")', "")
    assert "https://host/p?code=***" in shown
    assert ("Traceback" in shown) == debug
