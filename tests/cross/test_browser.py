"""The page of an artefact in a browser without a window: it streams, and goes on when it is opened again.

CDRMIX_PICTURE=FILE.png keeps a picture of it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from .machines import WASM
from .models import artefact, make


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The address of the page, and the paths that were asked for."""
    WASM.require()
    folder = artefact(tmp_path_factory.mktemp("page") / "artefact", "i8", WASM.triple)
    make(folder, "CFLAGS=-O2")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html", asked
        server.shutdown()


class Browser:
    """Chromium, by the WebDriver protocol."""

    def __init__(self, port: str, profile: Path):
        self.at = f"http://127.0.0.1:{port}/session"
        # no sandbox: it refuses to run as root
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=900,700",
            f"--user-data-dir={profile}",
        ]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        self.at += "/" + self.ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.at + path, data, {"Content-Type": "application/json"}, method=method)) as answer:
            return json.load(answer)["value"]

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self.ask("/execute/sync", {"script": script, "args": []})

    def wait_for(self, words: str) -> str:
        """What the page says, once these words are in it."""
        for _ in range(600):
            if re.search(words, said := str(self.run("return document.getElementById('said').textContent"))):
                return said
            time.sleep(0.1)
        raise AssertionError(f"the page says: {said}")

    def text(self) -> str:
        return str(self.run("return document.getElementById('text').textContent"))


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[], Browser]]:
    """Opens the browser, each time with the same profile."""
    if not shutil.which("chromedriver"):
        pytest.skip("no browser: make toolchain")
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        yield lambda: Browser(port, tmp_path / "profile")
        driver.terminate()


def test_the_page_streams_and_goes_on(page: tuple[str, list[str]], browse: Callable[[], Browser]) -> None:
    address, asked = page
    one = browse()
    one.ask("/url", {"url": address})
    assert "kernels simd128" in one.wait_for("kernels")
    one.run("document.getElementById('prompt').value = 'a prompt'; document.getElementById('form').requestSubmit()")
    assert re.match(r"100 tokens, [0-9.]+ a second; the prompt took \d+ ms; 108 tokens so far", one.wait_for("kept"))
    text = one.text()
    assert text.startswith("a prompt") and len(text) > 50
    if picture := os.environ.get("CDRMIX_PICTURE"):
        Path(picture).write_bytes(base64.b64decode(one.ask("/screenshot", method="GET")))
    one.ask("", method="DELETE")

    again = browse()
    again.ask("/url", {"url": address})
    assert "goes on from the file that this page keeps, after 108 tokens" in again.wait_for("goes on")
    assert again.text().startswith("… ") and again.text()[-10:] == text[-10:]
    again.ask("", method="DELETE")
    files = {"/index.html", "/cdrmix.mjs", "/model.wasm", "/manifest.json", "/tokenizer.json", "/weights.safetensors"}
    assert set(asked) == files
