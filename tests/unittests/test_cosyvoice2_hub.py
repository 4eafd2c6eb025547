"""The snapshot's files: found, fetched once, compared, never executed."""

import hashlib
import os

from speechbrain_emofilm.integrations import cosyvoice2_hub
from speechbrain_emofilm.integrations.cosyvoice2_hub import (
    FILES,
    REPOSITORY,
    REVISION,
    fetch_file,
    fetch_files,
    fetch_tokenizer,
)

import pytest

CONTENT = b"weights"


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "snapshot"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENT)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose files hold ``CONTENT``; lists what it was asked for."""
    asked = []

    def fetch(name, source, savedir, fetch_config):
        asked.append((name, source, fetch_config.revision))
        if not (savedir / name).exists():
            (savedir / name).write_bytes(hub.content)
        return savedir / name

    def hub():
        return asked

    hub.content = CONTENT
    monkeypatch.setattr(cosyvoice2_hub, "fetch", fetch)
    table = dict.fromkeys(
        FILES, (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    )
    monkeypatch.setattr(cosyvoice2_hub, "FILES", table)
    return hub


def test_files_of_a_folder_are_used_where_they_are(snapshot):
    assert fetch_file("llm.pt", snapshot) == snapshot / "llm.pt"
    assert fetch_files(source=snapshot) == snapshot
    assert fetch_tokenizer(snapshot) == snapshot / "CosyVoice-BlankEN"


def test_folder_may_lack_the_tokenizers_settings(snapshot):
    (snapshot / "CosyVoice-BlankEN" / "tokenizer_config.json").unlink()
    assert fetch_tokenizer(snapshot) == snapshot / "CosyVoice-BlankEN"


@pytest.mark.parametrize("name", ["llm.pt", "CosyVoice-BlankEN/vocab.json"])
def test_missing_file_is_named(snapshot, name):
    (snapshot / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}: give"):
        fetch_files(source=snapshot)


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "a/b/c"])
def test_missing_folder_is_named(source):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        fetch_file("llm.pt", source)


YAML = "!!python/object/apply:os._exit [1]"


def test_cosyvoice_1_is_named(tmp_path):
    (tmp_path / "llm.pt").write_bytes(CONTENT)
    (tmp_path / "cosyvoice.yaml").write_text(YAML)
    with pytest.raises(ValueError, match="holds CosyVoice-1"):
        fetch_file("llm.pt", tmp_path)


def test_cosyvoice_3_is_named_though_it_has_the_same_tokenizer(snapshot):
    (snapshot / "cosyvoice3.yaml").write_text(YAML)
    with pytest.raises(ValueError, match="holds CosyVoice-3"):
        fetch_file("llm.pt", snapshot)


@pytest.mark.parametrize("mark", ["CosyVoice-BlankEN/", "cosyvoice2.yaml"])
def test_cosyvoice_2_may_have_settings_of_the_first_ones_name(tmp_path, mark):
    (tmp_path / "llm.pt").write_bytes(CONTENT)
    (tmp_path / "cosyvoice.yaml").write_text(YAML)
    if mark.endswith("/"):
        (tmp_path / mark).mkdir()
    else:
        (tmp_path / mark).write_text(YAML)
    assert fetch_file("llm.pt", tmp_path) == tmp_path / "llm.pt"


def test_the_hubs_revision_is_fixed_and_its_yaml_left_there(hub, tmp_path):
    assert fetch_files(savedir=tmp_path / "saved") == tmp_path / "saved"
    assert {name for name, _, _ in hub()} == set(FILES)
    assert not any(name.endswith(".yaml") for name, _, _ in hub())
    assert {(source, rev) for _, source, rev in hub()} == {
        (REPOSITORY, REVISION)
    }


def test_checksum_is_computed_once(hub, tmp_path, monkeypatch):
    path = fetch_file("hift.pt", savedir=tmp_path)
    monkeypatch.setattr(cosyvoice2_hub, "_sha256", lambda path: 1 / 0)
    assert fetch_file("hift.pt", savedir=tmp_path) == path
    os.utime(path, (1, 1))  # another file
    with pytest.raises(ZeroDivisionError):
        fetch_file("hift.pt", savedir=tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"weight", "has 6 bytes instead of 7: delete"),
        (b"WEIGHTS", "is not the published file"),
    ],
)
def test_wrong_files_are_refused(hub, tmp_path, content, message):
    hub.content = content
    with pytest.raises(ValueError, match=message):
        fetch_file("hift.pt", savedir=tmp_path)


def test_unreachable_hub_is_explained(monkeypatch, tmp_path):
    def fetch(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(cosyvoice2_hub, "fetch", fetch)
    with pytest.raises(ValueError, match="no route to host.*goes on where"):
        fetch_file("hift.pt", savedir=tmp_path)
    with pytest.raises(ValueError, match="give the folder `savedir`"):
        fetch_file("hift.pt")
