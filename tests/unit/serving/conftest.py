import pytest


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    from support.serving_toys import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def page_bundle(tmp_path_factory):
    from support.page_toys import make_page_bundle

    return make_page_bundle(tmp_path_factory.mktemp("page") / "bundle")
