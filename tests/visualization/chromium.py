# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium over its debugging pipe: the DevTools protocol as JSON on two file descriptors, without further packages."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--force-color-profile=srgb", "--window-size=1280,900",
)  # fmt: skip
TIMEOUT = 60.0
KEYS = {"ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "PageUp": 33, "PageDown": 34}


def find_chromium() -> str | None:
    return next((path for p in PROGRAMS if (path := shutil.which(p))), None)


class Browser:
    """One page of a Chromium that has no network; errors of the console and requests are collected.

    Attributes:
        errors: exceptions and error lines of the console.
        requests: addresses that the page requested, other than data of its own.
    """

    def __init__(self, program: str, profile: Path, webgl: bool = True) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._buffer = b""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        flags = [f for f in FLAGS if webgl or "swiftshader" not in f]
        flags += [] if webgl else ["--disable-gpu", "--disable-3d-apis"]
        # Chromium reads commands from descriptor 3 and writes answers to 4; high numbers first, so that neither is overwritten.
        script = f'exec 8<&{to_read} 9>&{to_write}; exec 3<&8 4>&9; exec "$0" "$@"'
        command = ["bash", "-c", script, program, *flags, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._session: str | None = None
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def call(self, method: str, **params) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            answer = self._next(end)
            if answer and answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
        raise TimeoutError(f"{method}: no answer in {TIMEOUT} s")

    def _next(self, end: float) -> dict | None:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
            if not ready:
                return None
            received = os.read(self._read, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        self._collect(message.get("method"), message.get("params", {}))
        return message

    def _collect(self, event: str | None, params: dict) -> None:
        if event == "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            self.errors.append(str(detail.get("exception", {}).get("description", detail["text"])))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "blob:", "file:")):
            self.requests.append(params["request"]["url"])

    def run(self, expression: str):
        """Value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, page: Path, width: int = 1280, height: int = 900, mobile: bool = False, fragment: str = "") -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.resolve().as_uri() + fragment)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def wait(self, expression: str, seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}; console: {self.errors}"
            time.sleep(0.1)

    def key(self, key: str) -> None:
        code = KEYS.get(key, ord(key.upper()[0]))
        text = {} if key in KEYS else {"text": key}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **(text if kind == "keyDown" else {})
            )

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wheel(self, x: float, y: float, delta: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def centre(self, selector: str, fraction: float = 0.5) -> tuple[float, float]:
        """Point of an element, scrolled into view, at a fraction of its width and half of its height."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        return box[0] + fraction * box[2], box[1] + box[3] / 2

    def screenshot(self, path: Path, until: str = "html") -> Path:
        """Picture of the page from its top to the end of an element."""
        box = self.run(f"(() => {{ scrollTo(0, 0); const b = document.querySelector({json.dumps(until)}).getBoundingClientRect();"
                       "return {x: 0, y: 0, width: innerWidth, height: Math.ceil(b.bottom) + 16, scale: 1}; })()")  # fmt: skip
        options = {"clip": box, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))
        return path

    def pdf(self, path: Path) -> Path:
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path
