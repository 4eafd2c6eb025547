"""The snapshot's files: found, fetched once, compared, never executed."""

import functools
import hashlib
import http.server
import os
import threading

from speechbrain_emofilm.integrations.cosyvoice2 import hub as cosyvoice2_hub
from speechbrain_emofilm.integrations.cosyvoice2.hub import (
    FILES,
    REPOSITORY,
    REVISION,
    fetch_file,
    fetch_files,
    fetch_tokenizer,
)
from speechbrain_emofilm.utils import downloading

import pytest
from huggingface_hub import constants, hf_hub_url

CONTENT = b"weights"


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "snapshot"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENT)
    return folder


class Hub(http.server.ThreadingHTTPServer):
    """Stands for the hub, which sends to another host, and for that host.

    Each of ``answers`` is for one request of a file: after how many bytes the
    connection breaks, or None.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.content = CONTENT
        self.asked, self.headers, self.answers = [], [], []
        self.knows_ranges = True

    @property
    def urls(self):
        return [f"http://{h}:{self.server_port}" for h in HOSTS]


HOSTS = ("127.0.0.1", "localhost")


class HubHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        hub = self.server
        hub.headers.append(self.headers)
        if not self.path.startswith("/storage"):
            hub.asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"{hub.urls[1]}/storage")
            self.end_headers()
            return
        asked = self.headers.get("Range", "bytes=0-")
        start = int(asked[6:-1]) if hub.knows_ranges else 0
        body = hub.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: hub.answers.pop(0) if hub.answers else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose files hold its ``content``, which is all that is known."""
    server = Hub()
    # It looks every 10 ms whether it is to stop.
    threading.Thread(
        target=server.serve_forever, args=(0.01,), daemon=True
    ).start()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloading, "_PAUSE", 0)
    url = functools.partial(hf_hub_url, endpoint=server.urls[0])
    monkeypatch.setattr(cosyvoice2_hub, "hf_hub_url", url)
    know(monkeypatch, CONTENT)
    yield server
    server.shutdown()
    server.server_close()


def know(monkeypatch, content):
    """Makes this the content of every file that was published."""
    known = len(content), hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(cosyvoice2_hub, "FILES", dict.fromkeys(FILES, known))


@pytest.fixture
def large(hub, monkeypatch):
    """The same with more than comes at once."""
    hub.content = os.urandom(300_000)
    know(monkeypatch, hub.content)
    return hub


def test_files_of_a_folder_are_used_where_they_are(snapshot):
    assert fetch_file("llm.pt", snapshot) == snapshot / "llm.pt"
    assert fetch_files(source=snapshot) == snapshot
    assert fetch_tokenizer(snapshot) == snapshot / "CosyVoice-BlankEN"


@pytest.mark.parametrize("name", ["llm.pt", "CosyVoice-BlankEN/merges.txt"])
def test_files_of_a_folder_that_were_cut_off_are_named(
    snapshot, monkeypatch, caplog, name
):
    know(monkeypatch, CONTENT)
    (snapshot / name).write_bytes(CONTENT[:-1])
    assert fetch_files(source=snapshot) == snapshot
    (warning,) = caplog.messages
    assert f"{name} has 6 bytes, the released file 7: unless" in warning


def test_a_tokenizer_of_other_content_is_named(snapshot, monkeypatch, caplog):
    know(monkeypatch, CONTENT)
    for name in ("CosyVoice-BlankEN/vocab.json", "llm.pt"):
        (snapshot / name).write_bytes(CONTENT[::-1])
    fetch_files(source=snapshot)
    (warning,) = caplog.messages
    assert "vocab.json has the size of the released file and other" in warning


def test_released_files_of_a_folder_need_no_warning(
    snapshot, monkeypatch, caplog
):
    know(monkeypatch, CONTENT)
    fetch_files(source=snapshot)
    assert not caplog.messages


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
    with pytest.raises(FileNotFoundError, match="is not a folder"):
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
    assert hub.asked == [f"/{REPOSITORY}/resolve/{REVISION}/{n}" for n in FILES]
    assert not any(name.endswith(".yaml") for name in hub.asked)
    fetch_files(savedir=tmp_path / "saved")
    assert len(hub.asked) == len(FILES)


def test_the_token_is_for_the_hub_alone(hub, tmp_path):
    fetch_file("hift.pt", savedir=tmp_path)
    to_hub, to_storage = hub.headers
    assert to_hub["Authorization"] == "Bearer secret"
    assert "Authorization" not in to_storage


def test_files_in_the_hubs_cache_are_linked(hub, tmp_path):
    folder = tmp_path / "cache" / "models--FunAudioLLM--CosyVoice2-0.5B"
    cached = folder / "snapshots" / REVISION / "hift.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    assert fetch_file("hift.pt", savedir=tmp_path / "saved").samefile(cached)
    assert not hub.asked


def test_a_download_of_an_earlier_run_goes_on(large, tmp_path):
    large.answers = [200_000, 0]
    with pytest.raises(ValueError, match="resumes the download"):
        fetch_file("hift.pt", savedir=tmp_path)
    part = tmp_path / "hift.pt.part"
    n_bytes = part.stat().st_size
    assert 0 < n_bytes <= 200_000
    assert not (tmp_path / "hift.pt").exists()
    large.headers.clear()
    path = fetch_file("hift.pt", savedir=tmp_path)
    assert [h["Range"] for h in large.headers] == [f"bytes={n_bytes}-"] * 2
    assert path.read_bytes() == large.content
    assert not part.exists()


def test_a_broken_connection_is_opened_again(large, tmp_path):
    large.answers = [100_000, 100_000]
    path = fetch_file("hift.pt", savedir=tmp_path)
    assert path.read_bytes() == large.content
    assert len(large.asked) == 3


def test_a_server_that_sends_all_again_is_understood(large, tmp_path):
    large.knows_ranges = False
    (tmp_path / "hift.pt.part").write_bytes(b"part of it")
    path = fetch_file("hift.pt", savedir=tmp_path)
    assert path.read_bytes() == large.content


def test_a_whole_download_needs_its_check_only(large, tmp_path):
    (tmp_path / "hift.pt.part").write_bytes(large.content)
    path = fetch_file("hift.pt", savedir=tmp_path)
    assert path.read_bytes() == large.content
    assert not large.asked


def test_checksum_is_computed_once(hub, tmp_path, monkeypatch):
    path = fetch_file("hift.pt", savedir=tmp_path)
    monkeypatch.setattr(cosyvoice2_hub, "_sha256", lambda path: 1 / 0)
    assert fetch_file("hift.pt", savedir=tmp_path) == path
    os.utime(path, (1, 1))  # another file
    with pytest.raises(ZeroDivisionError):
        fetch_file("hift.pt", savedir=tmp_path)


@pytest.mark.parametrize("file", ["hift.pt", "hift.pt.part"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"weights!", "has 8 bytes instead of 7: delete"),
        (b"WEIGHTS", "is not the published file"),
    ],
)
def test_wrong_files_are_refused(hub, tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} {message}"):
        fetch_file("hift.pt", savedir=tmp_path)
    assert not hub.asked


def test_wrong_downloads_are_refused(hub, tmp_path):
    hub.content = b"WEIGHTS"
    with pytest.raises(ValueError, match="hift.pt.part is not the published"):
        fetch_file("hift.pt", savedir=tmp_path)
    assert not (tmp_path / "hift.pt").exists()


def test_unreachable_hub_is_explained(hub, monkeypatch, tmp_path):
    hub.answers = [0]
    with pytest.raises(ValueError, match="hift.pt of .*resumes the"):
        fetch_file("hift.pt", savedir=tmp_path)
    with pytest.raises(ValueError, match="give the folder `savedir` for it"):
        fetch_file("hift.pt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        fetch_file("hift.pt", savedir=tmp_path)


def test_another_repository_is_fetched_as_speechbrain_does(
    monkeypatch, tmp_path
):
    def fetch(name, source, savedir):
        asked.append((name, source))
        (savedir / name).write_bytes(b"fine-tuned")
        return savedir / name

    asked = []
    monkeypatch.setattr(cosyvoice2_hub, "fetch", fetch)
    path = fetch_file("hift.pt", "some/CosyVoice2", tmp_path)
    assert path.read_bytes() == b"fine-tuned"
    assert asked == [("hift.pt", "some/CosyVoice2")]
