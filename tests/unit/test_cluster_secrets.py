"""Secrets in addresses are recognised and taken out, and nothing else is."""

import pytest

from cluster.secrets import has_credentials, without_credentials
from tasks.data.remote import has_secret

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
