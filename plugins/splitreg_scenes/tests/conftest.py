import pytest


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
