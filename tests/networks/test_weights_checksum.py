# SPDX-License-Identifier: Apache-2.0
"""Damaged weights and exported models are refused in one line; files of earlier versions load with a note."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scripts.core.errors import InputError
from scripts.networks.exported_description import add_to_onnx
from scripts.networks.weights_checksum import KEY, UNSEALED, check_file, seal
from scripts.training.weights import load_weights, read_weights
from torch import nn


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_never_changes_loaded_weights(tmp_path, seed):
    state = network().state_dict()
    torch.save(state, tmp_path / "w.pt")
    content, rng, refused = (tmp_path / "w.pt").read_bytes(), np.random.default_rng(seed), 0
    for place in rng.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(0, 8))
        path = tmp_path / "damaged.pt"
        path.write_bytes(damaged)
        try:
            found, _ = read_weights(path)
        except InputError:
            refused += 1
            continue
        torch.testing.assert_close(dict(found), dict(state), rtol=0, atol=0)  # a byte of padding
    assert refused > 5


def test_an_entry_that_became_a_directory_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)  # the second of the central directory
    content[entry + 38] ^= 0x10
    (tmp_path / "w.pt").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "w.pt")


def test_a_flipped_byte_of_a_tensor_names_its_entry(tmp_path):
    state = network().state_dict()
    torch.save(state, tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    tensor = state["0.weight"].numpy().tobytes()
    place = content.index(tensor) + 17
    (tmp_path / "w.pt").write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    assert "the entry w/data/0 has a wrong checksum" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("nested", [False, True])
def test_infinite_weights_are_refused(tmp_path, value, nested):
    state = network().state_dict()
    state["1.running_var"][3] = value
    torch.save({"model": state} if nested else state, tmp_path / "w.pt")
    assert "1.running_var contains NaN or infinite values" in refusal(tmp_path / "w.pt")


def test_files_without_checksums_load_with_a_note(tmp_path, caplog):
    source, target = network(), network()
    torch.save(source.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with caplog.at_level(logging.WARNING):
        load_weights(target, str(tmp_path / "w.pt"))
    assert "has no checksums" in caplog.text
    torch.testing.assert_close(target.state_dict(), source.state_dict())


def test_torchscript_has_the_checksums_of_its_archive(tmp_path):
    path = tmp_path / "net.ts"
    module = torch.jit.script(network().eval())
    torch.jit.save(module, str(path))
    assert check_file(path) is None
    content = bytearray(path.read_bytes())
    content[bytes(content).index(module.state_dict()["0.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.ts: the entry .* has a wrong checksum"):
        check_file(path)


def test_an_exported_file_holds_its_own_hash(tmp_path):
    xml, tensors = tmp_path / "net.xml", tmp_path / "net.bin"
    xml.write_text(f'<net><rt_info><{KEY} value="{UNSEALED}" /></rt_info></net>')
    tensors.write_bytes(bytes(range(256)))
    seal(xml)
    assert check_file(xml) is None
    with pytest.raises(ValueError, match="of zeros"):
        seal(xml)
    tensors.write_bytes(bytes(range(255)) + b"\0")
    with pytest.raises(InputError, match="SHA-256"):
        check_file(xml)
    xml.write_text("<net></net>")
    assert "no checksums" in str(check_file(xml))


@pytest.mark.parametrize("text", [None, "a description"])
def test_every_byte_of_an_onnx_file_counts(tmp_path, text):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    values = onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    output = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [output], [values])), str(path))
    assert "no checksums" in str(check_file(path))
    add_to_onnx(path, text)
    assert check_file(path) is None
    content = path.read_bytes()
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            note = check_file(path)
        except InputError:
            continue
        assert note is not None, place  # the name of the entry itself is damaged
