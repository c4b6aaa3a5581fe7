import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `serving_toys`


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    from serving_toys import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def page_bundle(tmp_path_factory):
    from page_toys import make_page_bundle

    return make_page_bundle(tmp_path_factory.mktemp("page") / "bundle")
