"""Set-up of the tests that run recipes."""

import shutil
import sys
from pathlib import Path

import pytest

# Scripts that tests start as processes of their own import helpers, too.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def warm_python():
    """A program that runs scripts like Python, with torch imported before."""
    from warm_python import WarmPython

    with WarmPython() as python:
        yield python


@pytest.fixture(scope="session")
def pristine_world(tmp_path_factory):
    """A corpus, a backbone, manifests and tokens; not to be changed."""
    from tiny_world import make_world

    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(scope="session")
def pristine_pretraining(tmp_path_factory, warm_python):
    """A small pretraining corpus of MiniESD; not to be changed."""
    pytest.importorskip("hibari")
    from tiny_world import make_pretraining

    root = tmp_path_factory.mktemp("pretraining")
    make_pretraining(root, python=warm_python)
    return root


@pytest.fixture(scope="session")
def pristine_snapshot(tmp_path_factory):
    """A small snapshot of CosyVoice2; not to be changed."""
    from tiny_cosyvoice2 import make_snapshot

    folder = tmp_path_factory.mktemp("snapshot") / "cosyvoice2"
    make_snapshot(folder)
    return folder


@pytest.fixture
def world(pristine_world, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(pristine_world, tmp_path / "world")


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory):
    from chromium import browsing

    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(shared_browser):
    """The browser, as wide as a laptop; nothing may have gone wrong in it."""
    shared_browser.size(1300, 1000)
    shared_browser.prefer(prefers_color_scheme="light")
    shared_browser.complaints()
    yield shared_browser
    assert shared_browser.complaints() == []
    shared_browser.driver.get("about:blank")


def pytest_collection_modifyitems(items):
    """Mark every test of this folder slow: they run whole recipes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
