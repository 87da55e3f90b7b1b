# SPDX-License-Identifier: Apache-2.0
"""Claims: one holder at a time, none lost, those of the dead are void."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

from scripts.experiments import claims
from scripts.experiments.claims import Claim


def compete(folder: str, results: str, number: int) -> None:
    for item in range(20):
        with Claim(Path(folder) / str(item)) as claim:
            if claim.taken:
                done = Path(folder) / str(item) / "done"
                if not done.exists():
                    time.sleep(0.001)
                    with open(results, "a") as file:
                        file.write(f"{item} {number}\n")
                    done.touch()


def test_only_one_can_hold_a_claim_and_it_ends(tmp_path):
    with Claim(tmp_path) as first:
        assert first.taken
        with Claim(tmp_path) as second:
            assert not second.taken
            assert second.holder() == f"{socket.gethostname()}, process {os.getpid()}"
        assert (tmp_path / "claim.json").exists(), "one who was refused must not end the claim of another"
    assert Claim(tmp_path).holder() is None
    assert [p.name for p in tmp_path.iterdir()] == []


def test_processes_that_compete_do_every_item_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log.txt"
    workers = [context.Process(target=compete, args=(str(tmp_path / "items"), str(log), n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    items = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert len(items) == len(set(items))
    assert set(items) <= set(range(20))


def test_a_claim_of_a_process_that_is_gone_is_void(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    (tmp_path / "claim.json").write_text(json.dumps({"host": socket.gethostname(), "pid": process.pid}))
    with Claim(tmp_path) as claim:
        assert claim.taken


def test_a_claim_of_another_machine_is_void_only_without_a_sign_of_life(tmp_path):
    path = tmp_path / "claim.json"
    path.write_text(json.dumps({"host": "another", "pid": 1}))
    with Claim(tmp_path) as claim:
        assert not claim.taken
        assert claim.holder() == "another, process 1"
    old = time.time() - claims.DEAD - 5
    os.utime(path, (old, old))
    with Claim(tmp_path) as claim:
        assert claim.taken


def test_a_claim_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.05)
    with Claim(tmp_path) as claim:
        old = time.time() - 1000
        os.utime(claim.path, (old, old))
        for _ in range(100):
            time.sleep(0.05)
            if claim.path.stat().st_mtime > old + 500:
                break
        assert claim.path.stat().st_mtime > old + 500


def test_a_claim_cut_off_while_it_was_written_is_not_for_ever(tmp_path):
    path = tmp_path / "claim.json"
    path.write_text("")
    assert Claim(tmp_path).holder() == "another machine, process ?"
    old = time.time() - claims.DEAD - 5
    os.utime(path, (old, old))
    assert Claim(tmp_path).holder() is None
