"""TLS to a public host is verified unless the URL has another sslmode."""

import json
import os
import shutil
import ssl
import subprocess
import sys

import pytest

import config

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the program openssl")


@pytest.fixture
def roots(tmp_path):
    """A file with the root certificate that signed the certificate of the server of `url`."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=db.example.com"
    options = ["-addext", "subjectAltName=DNS:db.example.com", "-keyout", "key", "-out", "roots"]
    subprocess.run([*command.split(), *options], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "roots"


@pytest.fixture
def url(proxy, roots, sql):
    """The URL of a server with TLS; its name is public, its address is this machine's."""
    proxy.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    proxy.tls.load_cert_chain(roots, roots.with_name("key"))
    name, port = proxy.upstream["dbname"], proxy.port
    return f"postgresql://postgres@db.example.com:{port}/{name}?hostaddr=127.0.0.1"


def doctor_findings(url, **environ):
    """Run `flask doctor`; return its findings by check."""
    process = subprocess.run(
        [sys.executable, "-m", "flask", "doctor", "--json"],
        cwd=config.ROOT,
        env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": url, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return {finding["check"]: finding for finding in json.loads(process.stdout)["findings"]}


def test_certificate_that_no_root_signed_is_refused(url, proxy):
    finding = doctor_findings(url)["connection"]
    assert "certificate verify failed" in finding["summary"]
    assert "sslrootcert=FILE to the query of DATABASE_URL" in finding["remedy"]
    assert "(Heroku, Railway's public proxy): sslmode=require" in finding["remedy"]
    assert proxy.queries == []


def test_certificate_signed_by_a_root_of_the_url_or_the_system_is_accepted(url, roots):
    for findings in (
        doctor_findings(f"{url}&sslrootcert={roots}"),
        doctor_findings(url, SSL_CERT_FILE=str(roots)),
    ):
        assert findings["tls"]["summary"] == "TLSv1.3, sslmode=verify-full."
        assert findings["schema"]["level"] == "ok"


def test_certificate_of_another_host_name_is_refused(url, roots):
    other_host = url.replace("db.example.com", "db.example.org")
    assert (
        "does not match host name"
        in doctor_findings(f"{other_host}&sslrootcert={roots}")["connection"]["summary"]
    )


def test_weaker_sslmode_in_the_url_is_used_and_reported(url):
    tls = doctor_findings(f"{url}&sslmode=require")["tls"]
    assert tls["level"] == "warn"
    assert tls["summary"] == "TLSv1.3, but the server's identity is not verified (sslmode=require)."
    assert "is not encrypted" in doctor_findings(f"{url}&sslmode=disable")["tls"]["summary"]
