"""The server that processes are forks of."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brainchop_pipe.engines import server
from brainchop_pipe.engines.lanes import Lane


@pytest.mark.parametrize("folder", ["/tmp/" + "long/" * 30, None], ids=["long", "none"])
def test_processes_start_without_a_place_for_a_socket(monkeypatch, folder):
    def temporary():
        if folder is None:
            raise FileNotFoundError("No usable temporary directory")
        return folder

    monkeypatch.setattr(server.tempfile, "gettempdir", temporary)
    assert server._context().get_start_method() == "spawn"
    lane = Lane({})
    assert lane.run(pow, 2, 3) == 8
    lane.stop()


_COMMAND = """
import json, os, signal, sys, threading
from brainchop_pipe.engines.lanes import Lane
from brainchop_pipe.engines.server import fork_server

file = open(sys.argv[1], "w")
sys.modules["read_once"] = sys
threads = [threading.Thread(target=threading.Event().wait, daemon=True)] if sys.argv[2] == "threads" else []
for thread in threads:
    thread.start()
signal.signal(signal.SIGTERM, lambda *_: None)
sys.stdout.write("said before, ")
fork_server()

def look():
    files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return {"shares": "read_once" in sys.modules, "has file": sys.argv[1] in files, "server": os.getppid()}

lane = Lane({})
found = lane.run(look)
server = int(found.pop("server"))
status = open(f"/proc/{server}/status").read()
ignored = int(status.split("SigIgn:")[1].split()[0], 16)
found["leaves SIGTERM to the command"] = bool(ignored >> (signal.SIGTERM - 1) & 1)
found["pids"] = [server, lane.run(os.getpid)]
print(json.dumps(found))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("others", ["none", "threads"])
def test_server_is_a_fork_of_a_command_that_has_no_other_threads(others, tmp_path):
    """It has the command's modules and no file of its, and ends with it, whatever ends that."""
    command = [sys.executable, "-c", _COMMAND, str(tmp_path / "file"), others]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said, found = result.stdout.split(", ", 1)
    assert said == "said before"
    assert result.stderr == ""
    found = json.loads(found)
    for pid in found.pop("pids"):
        deadline = time.monotonic() + 20
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_alive(pid)
    # A server of its own is also that of whatever else a program does with `multiprocessing`.
    is_ours = others == "none"
    assert found == {"shares": is_ours, "has file": False, "leaves SIGTERM to the command": is_ours}


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_left_to_a_server_of_its_own(closed, tmp_path):
    (tmp_path / "command.py").write_text(
        "import os, pathlib, sys\n"
        "from brainchop_pipe.engines.lanes import Lane\n"
        "from brainchop_pipe.engines.server import fork_server\n"
        "fork_server()\n"
        "lane = Lane({})\n"
        "pathlib.Path(sys.argv[1]).write_text(str(lane.run(os.getpid)))\n"
        "lane.stop()\n"
    )
    command = f"exec {sys.executable} {tmp_path}/command.py {tmp_path}/found {closed}"
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    assert int((tmp_path / "found").read_text()) > 0


def test_error_of_a_forked_server_is_told():
    code = (
        "import multiprocessing.util, os\n"
        "from brainchop_pipe.engines import server\n"
        "with server._forking():\n"
        "    process = multiprocessing.util.spawnv_passfds(b'', ['python', '-c', '1 / 0'], [])\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "1\n"
    assert "ZeroDivisionError" in result.stderr


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
