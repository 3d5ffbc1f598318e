from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from eval.server import Server
from eval.soak.processes import memory_mib, open_files
from eval.soak.wire import free_port
from genrank.errors import EngineError

SERVES = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(code: str, folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-c", code, str(port)]
    return Server("thing", command, f"http://127.0.0.1:{port}/", folder / "log")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_server_is_killed_with_its_children_and_started_again(tmp_path: Path) -> None:
    async def body() -> None:
        made = server(SERVES, tmp_path)
        await made.start(60)
        first = made.pid
        assert made.status is None
        assert (memory_mib(first) or 0) > 1
        assert (open_files(first) or 0) > 2
        made.kill()
        assert made.status == -9
        await made.start(60)
        assert made.pid != first
        assert await made.stop(30) == -15
        made.kill()

    asyncio.run(body())
    children = [int(line) for line in (tmp_path / "log").read_text(encoding="utf-8").split()]
    ends = time.monotonic() + 5
    while alive(children[0]) and time.monotonic() < ends:
        time.sleep(0.02)
    assert len(children) == 2
    assert not alive(children[0])


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    made = server("raise SystemExit('no such model')", tmp_path)
    with pytest.raises(EngineError, match=r"the thing does not serve; .*log ends: no such model"):
        asyncio.run(made.start(60))


def test_a_server_that_ends_while_it_starts_is_started_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import pathlib; mark = pathlib.Path({str(mark)!r})\nif not mark.exists(): mark.touch(); raise SystemExit(1)\n"
    )
    made = server(code + SERVES, tmp_path)
    asyncio.run(made.start(60, attempts=2))
    made.kill()


@pytest.mark.parametrize("health", ["http", "redis"])
def test_a_server_runs_in_a_block(tmp_path: Path, health: str) -> None:
    (tmp_path / "log").write_text("of another day", encoding="utf-8")
    port = free_port()
    made = Server("thing", [sys.executable, "-c", SERVES, str(port)], f"{health}://127.0.0.1:{port}/", tmp_path / "log")
    with made.running(60):
        assert made.status is None
        assert "another day" not in (tmp_path / "log").read_text(encoding="utf-8")
    assert made.status == -15
