#!/usr/bin/env python3
"""Measure `emofilm serve` on this machine, or abuse it.

> python benchmarks/serve.py
> python benchmarks/serve.py --large
> python benchmarks/serve.py --abuse 600

The first command prints, for 1, 4, 16 and 64 clients that ask at the same
time, for sound that is streamed and for sound as a whole, the requests per
second, the same relative to those of a server that speaks one text at a time
(``--max-rows 1``: it draws the tokens of a text, makes their sound and goes on
to the next text, all in one process), the 95th percentile of the time to the
first sound, and the CPU time of a request. Both servers run at the same time
and are asked in turn.

The second one has 4 clients ask a model of CosyVoice2-0.5B's size with random
weights, in int8, which speaks one text, and then four, at a time.

The third one, for so many seconds, has clients leave in the middle, send
rubbish, too much and too slowly, and try what is forbidden, while others ask
properly. It fails if one of these is not answered or hears something else, or
if the server's memory or open files grow.
"""

import argparse
import asyncio
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from speechbrain_emofilm.cli import SHIPPED_MODEL
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import load_llm
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.precision import set_weight_precision
from speechbrain_emofilm.serve.app import Settings
from speechbrain_emofilm.serve.server import serve
from speechbrain_emofilm.utils.assets import find_file

import torch
from common.esd_like import make_emofilm
from common.random_cosyvoice2 import qwen2, write_llm
from common.reporting import print_result
from httpx import HTTPError, get

CLIENTS = (1, 4, 16, 64)
TEXTS = (
    "<happy>We won the game!</happy> <sad>But he left the house.</sad>",
    "One dog ran home again.",
    "<surprise=0.5 happy=0.5>Did you see that?</> I did not.",
    "<angry intensity=0.7>Leave the door open.</> It is warm in here.",
)
#: Texts that the large model speaks together, and clients that ask it.
LARGE_ROWS = 4
#: Growth of the server's memory in the second half of the abuse, in MB.
TOLERANCE_MB = 64


@contextmanager
def serving(*options, command=("-m", "speechbrain_emofilm", "serve")):
    """Run a server in a process of its own; yields its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *command]
    command += ["--no-browser", "--port", str(port), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(6000):
            if process.poll() is not None:
                sys.exit("The server has ended: run `emofilm serve` to see why")
            try:
                if get(f"{url}/healthz").is_success:
                    break
            except HTTPError:
                time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait()


class Client:
    """Client with one connection, which costs little beside the server."""

    def __init__(self, url):
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._streams = None

    async def speak(self, text, seed=0, stream=True):
        """Ask for a text; returns the time to the first sound, and the sound.

        Both are None if the server is asked too much.
        """
        asked = {
            "input": text,
            "seed": seed,
            "response_format": "pcm",
            "stream": stream,
        }
        data = request(json.dumps(asked).encode(), "/v1/audio/speech")
        started = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split()[1])
        if "transfer-encoding: chunked" not in head:
            length = int(head.split("content-length:")[1].split()[0])
            body = await reader.readexactly(length)
            if status != 429:
                raise RuntimeError(f"The server answers {status}: {body}")
            seconds = float(head.split("retry-after:")[1].split()[0])
            self.close()  # before the server does
            await asyncio.sleep(seconds)
            return None, None
        first, parts = None, []
        while size := int(await reader.readline(), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
            first = first or time.perf_counter() - started
        await reader.readline()
        return first, b"".join(parts)

    def close(self):
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def cpu_seconds(process):
    """CPU time of a server and the processes it has started (Linux)."""
    total = 0
    for pid in processes_of(process):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        total += sum(map(int, fields.split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def processes_of(process):
    """Numbers of a server's process and of those it has started (Linux)."""
    found = [process.pid]
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


async def load(served, n_clients, n_requests, stream=True):
    """Let clients ask one request after the other; returns the scores."""
    url, process = served
    clients = [Client(url) for _ in range(n_clients)]
    for text in TEXTS[:2]:
        await clients[0].speak(text, stream=stream)
    firsts, seconds = [], 0.0

    async def work(client, number):
        nonlocal seconds
        for index in range(number, n_requests, n_clients):
            sound = None
            while sound is None:
                first, sound = await client.speak(
                    TEXTS[index % 4], index, stream
                )
            firsts.append(first)
            seconds += len(sound) / 48000

    used, started = cpu_seconds(process), time.perf_counter()
    await asyncio.gather(
        *(work(client, number) for number, client in enumerate(clients))
    )
    took = time.perf_counter() - started
    used = cpu_seconds(process) - used
    for client in clients:
        client.close()
    firsts.sort()
    return {
        "requests_per_s": round(len(firsts) / took, 3),
        "speech_s_per_s": round(seconds / took, 3),
        "first_sound_p50_s": round(firsts[len(firsts) // 2], 3),
        "first_sound_p95_s": round(firsts[int(0.95 * (len(firsts) - 1))], 3),
        "cpu_s_per_request": round(used / len(firsts), 4),
    }


def measure(options):
    """Print the scores of a server, beside those of one text at a time.

    The servers run at the same time and take turns, so that other work of the
    machine disturbs both alike.
    """
    with (
        serving("--max-rows", "1") as one_by_one,
        serving("--max-rows", str(options.rows)) as together,
    ):
        wait_for_sound(together[1])
        for stream in (True, False):
            for n_clients in options.clients:
                n = max(options.requests, 2 * n_clients)
                rates = []
                for rows, served in ((1, one_by_one), (options.rows, together)):
                    scores = asyncio.run(load(served, n_clients, n, stream))
                    rates.append(scores["requests_per_s"])
                    print_result(
                        "serve",
                        rows=rows,
                        clients=n_clients,
                        streamed=stream,
                        relative=round(rates[-1] / rates[0], 2),
                        **scores,
                    )


def wait_for_sound(process):
    """Wait until the process that makes a server's sound has started."""
    used = -1.0
    while cpu_seconds(process) - used > 0.2:  # it loads what it needs
        used = cpu_seconds(process)
        time.sleep(3)


def measure_large(options):
    """Print the scores of a model of CosyVoice2-0.5B's size."""
    command = [__file__, "--serve-large", "--layers", str(options.layers)]
    rates = {}
    for max_rows in (1, LARGE_ROWS):
        with serving("--rows", str(max_rows), command=command) as served:
            scores = asyncio.run(load(served, LARGE_ROWS, 8))
        rate = scores["requests_per_s"]
        one = rates.setdefault(1, rate)
        print_result(
            "serve_large",
            rows=max_rows,
            clients=LARGE_ROWS,
            relative=round(rate / one, 2),
            **scores,
        )


def serve_large(options):
    """Serve random weights of the original sizes, in int8."""
    mini = EmoFiLMSynthesizer.from_hparams(find_file(SHIPPED_MODEL).parent)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llm.pt"
        write_llm(path, 0, options.layers)
        lm = load_llm(path, qwen2(options.layers))
    set_weight_precision(lm, "int8")
    synthesizer = EmoFiLMSynthesizer(
        {
            "emofilm": make_emofilm(lm).eval(),
            "token_to_wav": TokenToWav(
                CosyVoice2Flow().eval(),
                HiFTGenerator().eval(),
                {"random": torch.randn(192)},
            ),
        },
        {
            "emotions": mini.emotions,
            "text_frontend": mini.text_frontend,
            "text_splitter": mini.planner.splitter,
            # Random speech does not end by itself.
            "generation": {"min_ratio": 1.5, "max_ratio": 1.5},
        },
    )
    settings = Settings(max_rows=options.rows, time_limit=600)
    serve(synthesizer, settings, options.port, browser=False)


# --------------------------------------------------------------------- abuse


def raw(url, data, wait=0.0, read=False):
    """Send bytes and leave, perhaps after some time."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            for part in data:
                connection.sendall(part)
                time.sleep(wait)
            if read:
                connection.recv(1000)
        except OSError:
            pass  # the server may have closed it


def request(body, path="/v1/words", **headers):
    """Bytes of a POST request."""
    fields = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def leave(url, rng):
    """Ask for a long text and leave."""
    body = b'{"text": "' + b"One dog ran home again. " * 20 + b'"}'
    raw(url, [request(body)], wait=rng.random())


def rubbish(url, rng):
    """Send random bytes."""
    raw(url, [rng.randbytes(rng.randrange(1, 4000))], read=True)


def rubbish_json(url, rng):
    """Send JSON that is none, or is nested too deeply."""
    body = rng.choice([b"{", b"[" * 100_000, b'{"text": 1}', rng.randbytes(99)])
    path = rng.choice(["/v1/words", "/v1/marks", "/v1/audio/speech"])
    raw(url, [request(body, path)], read=True)


def oversized(url, rng):
    """Send more than is accepted, with and without saying so."""
    raw(url, [request(b"", Content_Length="99999999999")], read=True)
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = b"POST /v1/words HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    raw(url, [head, *[chunk] * 40], read=True)
    raw(url, [b"GET / HTTP/1.1\r\nX: " + b"x" * 500_000], read=True)


def slow(url, rng):
    """Send a request byte by byte."""
    data = request(b'{"text": "We won."}')[: rng.randrange(5, 60)]
    raw(url, [data[i : i + 1] for i in range(len(data))], wait=0.1)


def slow_reader(url, rng):
    """Ask for much sound and do not read it."""
    body = b'{"response_format": "pcm", "input": "'
    body += b"One dog ran home again. " * 30 + b'"}'
    raw(url, [request(body, "/v1/audio/speech")], wait=10)


def malicious(url, rng):
    """Try what is forbidden: other names, pages, paths, recordings."""
    body = b'{"text": "We won."}'
    raw(url, [request(body, Host="evil.example")], read=True)
    raw(url, [request(body, Origin="http://evil.example")], read=True)
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "//etc/passwd"):
        raw(url, [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()])
    form = io.BytesIO()
    for name, value in (
        ("name", b"../../voice"),
        ('file"; filename="../../x.wav', rng.randbytes(5000)),
    ):
        form.write(b"--x\r\nContent-Disposition: form-data; name=")
        form.write(b'"' + name.encode() + b'"\r\n\r\n' + value + b"\r\n")
    form.write(b"--x--\r\n")
    kind = "multipart/form-data; boundary=x"
    for path in ("/v1/voices", "/v1/label"):
        raw(
            url,
            [request(form.getvalue(), path, Content_Type=kind)],
            read=True,
        )
    marks = [b"<" * 4000, b"<happy>" * 500, b"a " * 2000, "😀".encode() * 900]
    body = b'{"text": "' + rng.choice(marks) + b'"}'
    raw(url, [request(body, "/v1/marks")], read=True)


ABUSES = (
    leave,
    rubbish,
    rubbish_json,
    oversized,
    slow,
    slow_reader,
    malicious,
)


def resources(process):
    """Memory in MB and open files of the server's processes (Linux)."""
    pages, n_files = 0, 0
    for pid in processes_of(process):
        folder = Path(f"/proc/{pid}")
        pages += int((folder / "statm").read_text().split()[1])
        n_files += len(os.listdir(folder / "fd"))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, n_files


async def attack(url, process, seconds):
    """Abuse a server; returns what happened to those who ask properly."""
    until = time.monotonic() + seconds
    n_abuses, n_proper, different = 0, 0, 0
    readings = []
    clients = [Client(url) for _ in range(2)]
    expected = [(await clients[0].speak(text))[1] for text in TEXTS]

    async def abuse(number):
        nonlocal n_abuses
        rng = random.Random(number)
        while time.monotonic() < until:
            kind = ABUSES[number % len(ABUSES)]
            try:
                await asyncio.to_thread(kind, url, rng)
            except OSError:  # refused: there are too many connections
                await asyncio.sleep(0.1)
            n_abuses += 1

    async def proper(client):
        nonlocal n_proper, different
        while time.monotonic() < until:
            index = random.randrange(len(TEXTS))
            _, sound = await client.speak(TEXTS[index])
            if sound is not None:
                n_proper += 1
                different += sound != expected[index]

    async def watch():
        while time.monotonic() < until:
            readings.append(resources(process))
            await asyncio.sleep(1)

    await asyncio.gather(
        *(abuse(number) for number in range(2 * len(ABUSES))),
        *(proper(client) for client in clients),
        watch(),
    )
    # Everything that was given up has left.
    await asyncio.sleep(35)
    await Client(url).speak(TEXTS[0])
    half = readings[len(readings) // 2 :]
    memory, files = resources(process)
    return {
        "abuses": n_abuses,
        "proper_requests": n_proper,
        "different_sounds": different,
        "memory_growth_mb": round(memory - min(m for m, _ in half), 1),
        "open_files_growth": files - readings[0][1],
    }


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--layers", type=int, default=24, help="with --large")
    parser.add_argument("--abuse", type=float, metavar="SECONDS")
    # What --large starts.
    for name in ("--serve-large", "--no-browser"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_large:
        serve_large(options)
        return
    if options.large:
        measure_large(options)
        return
    if options.abuse is None:
        measure(options)
        return
    with serving("--time-limit", "60") as (url, process):
        scores = asyncio.run(attack(url, process, options.abuse))
        alive = process.poll() is None and get(f"{url}/healthz").is_success
    print_result("serve_abuse", alive=alive, **scores)
    if (
        not alive
        or not scores["proper_requests"]
        or scores["different_sounds"]
        or scores["memory_growth_mb"] > TOLERANCE_MB
        or scores["open_files_growth"] > 8
    ):
        sys.exit("The server did not stand it: see above.")


if __name__ == "__main__":
    main()
