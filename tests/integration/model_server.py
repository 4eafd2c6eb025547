"""The server with the shipped model, in this process."""

import threading
import time
from contextlib import contextmanager

from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.assets import find_file

SHIPPED_MODEL = "speechbrain_emofilm/assets/mini/synthesizer.yaml"


@contextmanager
def running(app):
    """The port of a server of an application, which stops at the end."""
    from speechbrain_emofilm.serve.server import make_server

    server = make_server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving_model():
    """The address of a server of the shipped model."""
    from speechbrain_emofilm.serve.app import create_app
    from speechbrain_emofilm.serve.service import Parts

    folder = find_file(SHIPPED_MODEL).parent
    app = create_app(EmoFiLMSynthesizer.from_hparams(folder), parts=Parts())
    with running(app) as port:
        yield f"http://127.0.0.1:{port}/"
