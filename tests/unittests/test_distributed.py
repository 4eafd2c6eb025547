from speechbrain_emofilm.utils.distributed import process_device

import pytest


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_every_process_has_a_gpu_of_its_own(monkeypatch, device):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert process_device({"device": device}) == "cuda:3"


def test_one_process_takes_the_device_it_is_given(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert process_device({"device": "cuda:2"}) == "cuda:2"


def test_processes_on_the_cpu_share_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_device({"device": "cpu"}) == "cpu"
