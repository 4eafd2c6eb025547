"""A Python whose imports are done already, for tests that start many scripts.

Most of a small recipe's time goes into importing torch, SpeechBrain and this
package. A server imports them once; for each script it forks a process, which
has memory, arguments, environment, folder and exit code of its own::

    with WarmPython() as python:
        subprocess.run([python, "train.py", "hparams/mini.yaml"])

`python` is the path of a program that takes Python's ``FILE``, ``-m MODULE``
and ``-c CODE``, with ``-u`` before them or not. If it is killed, so is the
process that it stands for.

> python tests/integration/warm_python.py FILE [ARGUMENTS]

runs a script whose own ``sys.executable`` is such a program.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
#: What recipes import; what is not installed is left out.
IMPORTED = """
speechbrain_emofilm torch torchaudio speechbrain transformers hyperpyyaml
speechbrain_emofilm.core speechbrain_emofilm.inference.synthesizer
speechbrain_emofilm.evaluation.measuring speechbrain_emofilm.evaluation.report
speechbrain_emofilm.evaluation.systems speechbrain_emofilm.lobes.cosyvoice2.llm
transformers.models.qwen2.modeling_qwen2 speechbrain_emofilm.integrations.hibari
speechbrain_emofilm.integrations.aligner.pocketsphinx soundfile h5py
scipy.signal scipy.stats sklearn.linear_model matplotlib.pyplot pyworld
torch.utils.tensorboard torch.distributed.launcher.api distillmos faster_whisper
""".split()
#: Speaks with the server for one process.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = dict(argv=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))
socket.send_fds(server, [b"{{"], [0, 1, 2])
server.sendall(json.dumps(request)[1:].encode() + b"\\n")
code = int(server.recv(16) or 1)
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmPython:
    """Starts the server, and ends it with all that it runs."""

    def __enter__(self):
        # The addresses of sockets are short: not in a test's own folder.
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))
        address = str(self.folder / "socket")
        # Each process is measured, not the imports before it.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("COVERAGE_PROCESS")
        }
        environment["OPENBLAS_NUM_THREADS"] = (
            "1"  # threads do not survive forks
        )
        self.server = subprocess.Popen(
            [sys.executable, __file__, "--serve", address],
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,  # its end ends the server
            stdout=subprocess.PIPE,
        )
        if self.server.stdout.readline() != b"ready\n":
            raise RuntimeError("The warm Python did not start")
        client = self.folder / "python"
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        return str(client)

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
        shutil.rmtree(self.folder)


def serve(address):
    """Forks a process for each request; returns what a new process is to run,
    in that process alone, and None when there are to be no more.
    """
    sys.path.insert(0, str(REPOSITORY))
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    del sys.path[0]
    gc.freeze()  # else a collection would copy all of it in each process
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    os.write(1, b"ready\n")
    running = {}  # connection to process
    while True:
        ready, _, _ = select.select([0, listener, ended, *running], [], [])
        if 0 in ready:
            for process in running.values():
                os.kill(process, signal.SIGKILL)
            return None
        if ended in ready:
            os.read(ended, 4096)
            answer_ended(running)
        for connection in running.keys() & set(ready):  # the client has died
            os.kill(running[connection], signal.SIGKILL)
            running[connection] = -running[connection]
        # A killed process is waited for, its dead client no longer listened to.
        for connection in [c for c, process in running.items() if process < 0]:
            os.waitpid(-running.pop(connection), 0)
            connection.close()
        if listener in ready:
            connection, _ = listener.accept()
            request, files = read_request(connection)
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (listener, connection, *running):
                    end.close()
                os.close(ended)
                os.close(wake)
                return request, files
            running[connection] = process
            for file in files:
                os.close(file)


def read_request(connection):
    """What a client wants to be run, and its standard files."""
    first, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as rest:
        return json.loads(first + rest.readline()), files


def answer_ended(running):
    """Tells clients the exit codes of their processes."""
    for connection, process in list(running.items()):
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            code = str(os.waitstatus_to_exitcode(status))
            try:
                connection.sendall(code.encode())
            except BrokenPipeError:  # nobody waits for it any more
                pass
            connection.close()
            del running[connection]


def run(request, files):
    """Does what Python would with its command line, in this process."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    try:
        from coverage import process_startup

        process_startup()
    except ImportError:
        pass
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    first, *arguments = request["argv"]
    if first == "-u":  # torch.distributed.run's processes
        first, *arguments = arguments
        sys.stdout.reconfigure(write_through=True)
    start = os.getcwd()
    if first == "-m":
        first, *arguments = arguments
        do = runpy.run_module
    elif first == "-c":
        code, *arguments = arguments

        def do(_, run_name, alter_sys):
            main = {"__name__": run_name}
            exec(code, main)
    else:
        start = str(Path(first).resolve().parent)

        def do(path, run_name, alter_sys):
            runpy.run_path(path, run_name=run_name)

    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [start, *filter(None, added)]
    sys.argv = [first, *arguments]
    do(first, run_name="__main__", alter_sys=True)


def end(do, *arguments):
    """Does something and ends this process as Python would.

    Only the modules are not taken down, which costs seconds and says nothing.
    """
    code = 0
    try:
        do(*arguments)
    except SystemExit as error:
        code = error.code
        if code is None or isinstance(code, int):
            code = code or 0
        else:
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # waits for the threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    del sys.path[0]  # this folder is not the scripts'
    if sys.argv[1] == "--serve":
        job = serve(sys.argv[2])
        if job is not None:
            end(run, *job)
    else:
        with WarmPython() as python:
            sys.executable = python
            # Which Python torch.distributed.run starts.
            os.environ["PYTHON_EXEC"] = python
            del sys.argv[0]
            sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
            runpy.run_path(sys.argv[0], run_name="__main__")
