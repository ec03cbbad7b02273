"""TLS to a public host is verified unless the URL says otherwise."""

import json
import os
import shutil
import ssl
import subprocess
import sys

import pytest

import config

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")


@pytest.fixture
def roots(tmp_path):
    """A file with the only certificate that vouches for the server of `url`."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=db.example.com"
    names = ["-addext", "subjectAltName=DNS:db.example.com", "-keyout", "key", "-out", "roots"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "roots"


@pytest.fixture
def url(proxy, roots, sql):
    """The URL of a server with TLS; its name is public, its address is this machine's."""
    proxy.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    proxy.tls.load_cert_chain(roots, roots.with_name("key"))
    name, port = proxy.upstream["dbname"], proxy.server_address[1]
    return f"postgresql://postgres@db.example.com:{port}/{name}?hostaddr=127.0.0.1"


def examine(url, **environ):
    """What the doctor finds, by check."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "doctor", "--json"],
        cwd=config.ROOT,
        env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": url, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_server_that_no_root_vouches_for_is_refused(url, proxy):
    refused = examine(url)["connection"]
    assert "certificate verify failed" in refused["summary"]
    assert "sslrootcert=FILE to the query of DATABASE_URL" in refused["remedy"]
    assert "(Heroku, Railway's public proxy): sslmode=require" in refused["remedy"]
    assert proxy.queries == []


def test_a_server_that_the_roots_of_the_url_or_of_the_system_vouch_for_is_let_in(url, roots):
    for found in (examine(f"{url}&sslrootcert={roots}"), examine(url, SSL_CERT_FILE=str(roots))):
        assert found["tls"]["summary"] == "TLSv1.3, sslmode=verify-full."
        assert found["schema"]["level"] == "ok"


def test_a_certificate_of_another_name_is_refused(url, roots):
    other = url.replace("db.example.com", "db.example.org")
    assert (
        "does not match host name"
        in examine(f"{other}&sslrootcert={roots}")["connection"]["summary"]
    )


def test_who_asks_for_less_gets_it_and_is_told(url):
    tls = examine(f"{url}&sslmode=require")["tls"]
    assert tls["level"] == "warn"
    assert tls["summary"] == "TLSv1.3, but the server's identity is not verified (sslmode=require)."
    assert "is not encrypted" in examine(f"{url}&sslmode=disable")["tls"]["summary"]
