# SPDX-License-Identifier: Apache-2.0
"""Client of MONAI Label's server in its own process, over REST as 3D Slicer's plugin."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from conftest import BUNDLE
from scripts.label.serve import NAME

START_SECONDS = 240


class Server:
    """A server started by ``python -m scripts.label serve``.

    Args:
        python: interpreter that has monailabel.
        studies: folder of scans.
        app: folder of the server.
        options: further options of ``serve``.
    """

    def __init__(self, python: str, studies: Path, app: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.app, self.log = app, app.parent / f"{app.name}-{self.port}.log"
        line = [python, "-m", "scripts.label", "serve", "--studies", str(studies), "--app", str(app)]
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*line, "--port", str(self.port), *options],
                cwd=BUNDLE, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        for _ in range(START_SECONDS):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                self.call("/info/")
                return
            except OSError:
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-3000:])

    @property
    def model(self) -> Path:
        """Weights that the server uses."""
        return self.app / "model" / NAME / "models" / "model.pt"

    def call(
        self, path: str, method: str = "GET", body: dict | None = None, form: dict | None = None, file: Path | None = None
    ) -> tuple[int, bytes]:
        """Status and content of an answer."""
        data, headers = None, {}
        if form is not None:
            mark = uuid.uuid4().hex
            parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in form.items()]
            if file is not None:
                head = f'--{mark}\r\nContent-Disposition: form-data; name="label"; filename="{file.name}"\r\n\r\n'
                parts += [head.encode(), file.read_bytes(), b"\r\n"]
            data = b"".join([*parts, f"--{mark}--\r\n".encode()])
            headers = {"content-type": f"multipart/form-data; boundary={mark}"}
        elif body is not None:
            data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def infer(self, study: str, output: str, **options) -> tuple[int, bytes]:
        """Segment a study; the body is a mask (``output="image"``) or its findings ("json")."""
        form = {"params": json.dumps({"device": "cpu", "result_extension": ".nii.gz", "result_dtype": "uint8", **options})}
        return self.call(f"/infer/{NAME}?image={study}&output={output}", "POST", form=form)

    def store(self, study: str, label: Path) -> int:
        """Submit a label."""
        form = {"params": json.dumps({"label_info": [{"name": "fractured vertebra", "idx": 1}]})}
        return self.call(f"/datastore/label?image={study}&tag=final", "PUT", form=form, file=label)[0]

    def task(self, kind: str, path: str, **options) -> tuple[str, str]:
        """Start a task and wait for its end; return its status and last lines."""
        status, content = self.call(path, "POST", body=options)
        assert status == 200, content
        while True:
            task = json.loads(self.call(f"/{kind}/")[1])
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task["status"], "\n".join(task.get("details", []))
            time.sleep(0.5)

    def train(self, **options) -> tuple[str, str]:
        """Train as 3D Slicer does, with all options of the server's info."""
        config = json.loads(self.call("/info/")[1])["trainers"][NAME]["config"]
        sent = {k: v[0] if isinstance(v, list) and v else v for k, v in config.items()}
        return self.task("train", f"/train/{NAME}", **{**sent, "max_epochs": 1, **options})

    def stop(self) -> None:
        """End the process group of the server and its tasks."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(20)
