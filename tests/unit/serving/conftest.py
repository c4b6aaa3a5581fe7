import subprocess

import pytest


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    from support.serving_toys import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def page_bundle(tmp_path_factory):
    from support.page_toys import make_page_bundle

    return make_page_bundle(tmp_path_factory.mktemp("page") / "bundle")


def write_certificate(folder):
    """Write cert.pem and key.pem for localhost and 127.0.0.1; other keys at every call."""
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
    except OSError:
        pytest.skip("openssl is not installed")
    return folder


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A folder with cert.pem and key.pem for localhost and 127.0.0.1."""
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def new_certificate():
    """A function that writes a certificate into a folder."""
    return write_certificate
