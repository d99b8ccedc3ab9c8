"""The artifact file: round trips, damage of every kind."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from nncompile import ModelLoadError, Predictor, load
from nncompile_runtime import container
from nncompile_runtime.container import DIGEST_KEY, MANIFEST_KEY
from nncompile_runtime.manifest import Manifest
from nncompile_runtime.wire import fields, write_bytes_field

from .graphs import conv_net

METADATA_PROPS, KEY, VALUE = 14, 1, 2


def entry(key: bytes, value: bytes) -> bytes:
    return write_bytes_field(METADATA_PROPS, write_bytes_field(KEY, key) + write_bytes_field(VALUE, value))


def digest_entry(data: bytes) -> bytes:
    return entry(DIGEST_KEY, hashlib.sha256(data).hexdigest().encode())


def manifest_entry(about: Manifest) -> bytes:
    return entry(MANIFEST_KEY, about.model_dump_json().encode())


def boundaries(data: bytes) -> list[int]:
    """Where a field ends, at the top level and in the graph."""
    top = list(fields(data, 0, len(data)))
    graph = next(field for field in top if field.number == 7)
    return [f.end for f in (*top, *fields(data, graph.value_start, graph.end))]


def refused(data: bytes, match: str | None = None) -> bool:
    with pytest.raises(ModelLoadError, match=match) as caught:
        container.parse(data, "net.onnx")
    return "net.onnx" in str(caught.value) and bool(caught.value.remedy)


def test_round_trip(model: onnx.ModelProto, about: Manifest, packed: bytes) -> None:
    file = container.parse(packed, "net.onnx")
    assert file.manifest == about
    assert (file.name, file.data) == ("net.onnx", packed)
    assert packed.startswith(model.SerializeToString())


def test_the_bytes_are_model_manifest_digest(model: onnx.ModelProto, about: Manifest, packed: bytes) -> None:
    head = model.SerializeToString() + manifest_entry(about)
    assert packed == head + digest_entry(head)


def test_bytes_made_here_are_hashed_once_and_looked_at_as_any(packed: bytes, about: Manifest) -> None:
    other_weight = packed.replace(packed[400:408], bytes(8), 1)
    with pytest.raises(ModelLoadError, match="digest does not match"):
        container.parse(other_weight, "m.onnx")
    assert container.parse(other_weight, "m.onnx", made_here=True).manifest == about
    with pytest.raises(ModelLoadError, match="not the last two entries"):
        container.parse(packed + entry(b"key", b"value"), "m.onnx", made_here=True)


def test_an_artifact_is_valid_onnx_and_keeps_its_metadata(artifact: Path) -> None:
    model = onnx.load(artifact)
    onnx.checker.check_model(model, full_check=True)
    (manifest_key, text), (digest_key, digest) = [(p.key, p.value) for p in model.metadata_props[-2:]]
    assert (manifest_key.encode(), digest_key.encode()) == (MANIFEST_KEY, DIGEST_KEY)
    assert Manifest.model_validate_json(text) == load(artifact, device="cpu").manifest
    data = artifact.read_bytes()
    assert digest == hashlib.sha256(data[: data.rindex(digest_entry(b"")[:20])]).hexdigest()


def test_a_message_without_a_graph_is_refused_before_onnx_runtime_sees_it() -> None:
    assert refused(onnx.ModelProto(ir_version=10, producer_name="p").SerializeToString(), "holds no graph")


def test_a_plain_model_has_no_manifest(model: onnx.ModelProto) -> None:
    assert container.parse(model.SerializeToString(), "net.onnx").manifest is None


def single_bit_flips(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """200 places anywhere and each byte from `start` on, one seeded bit each."""
    rng = random.Random(0)
    for position in [*(rng.randrange(len(data)) for _ in range(200)), *range(start, len(data))]:
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        yield position, bytes(changed)


def test_any_flipped_bit_is_noticed(model: onnx.ModelProto, packed: bytes) -> None:
    accepted = []
    for position, changed in single_bit_flips(packed, model.ByteSize()):
        try:
            container.parse(changed, "net.onnx")
            accepted.append(position)
        except ModelLoadError:
            continue
    assert accepted == []


def test_a_flipped_bit_in_a_compiled_artifact_is_noticed(artifact: Path) -> None:
    data = artifact.read_bytes()
    for _, changed in single_bit_flips(data, len(data) - 100):
        assert refused(changed)


def test_a_truncated_file_is_refused(model: onnx.ModelProto, packed: bytes) -> None:
    """Cut anywhere, it is no artifact any more.

    One cut point is accepted: the exact end of the model leaves a whole plain ONNX file, and nothing
    in it says that an artifact was cut. It loads without a manifest.
    """
    whole_model = model.ByteSize()
    rng = random.Random(0)
    cuts = {*range(40), *boundaries(packed), *(rng.randrange(len(packed)) for _ in range(100))}
    cuts |= set(range(whole_model + 1, len(packed)))
    accepted = set()
    for cut in cuts - {len(packed)}:
        try:
            Predictor(container.parse(packed[:cut], "net.onnx"), device="cpu")
            accepted.add(cut)
        except ModelLoadError:
            continue
    assert accepted == {whole_model}
    assert container.parse(packed[:whole_model], "net.onnx").manifest is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"just some text that somebody saved under the wrong name\n",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + b"\x00" * 50,
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 50,
        b"PK\x03\x04" + b"\x00" * 50,
        b"\x1f\x8b\x08\x00" + b"\x00" * 50,
        random.Random(0).randbytes(5000),
        onnx.ModelProto(ir_version=10, producer_name="p").SerializeToString(),
    ],
    ids=["empty", "zero", "text", "jpeg", "png", "zip", "gzip", "garbage", "no graph"],
)
def test_a_file_that_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"net\.onnx"):
        load(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        load(tmp_path / "missing.onnx")
    with pytest.raises(ModelLoadError, match="directory"):
        load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match="Not a directory"):
        load(tmp_path / "file" / "net.onnx")
    with pytest.raises(ModelLoadError, match="null"):
        load("a\0b.onnx")


@pytest.mark.parametrize("path", [None, 3, ["net.onnx"], object()])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(ModelLoadError, match=f"not from an object of type {type(path).__name__}") as caught:
        load(path)  # type: ignore[arg-type]
    assert caught.value.remedy == "Give the path of an .onnx file."


def test_a_file_beyond_protobufs_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(ModelLoadError, match="2147483648 bytes"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_read_to_its_end(packed: bytes, tmp_path: Path) -> None:
    """Its size is 0 as far as the system tells."""
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: pipe.write_bytes(packed))
    thread.start()
    assert container.read(pipe).data == packed
    thread.join()


def test_reading_takes_no_more_memory_than_the_file_has(packed: bytes, tmp_path: Path) -> None:
    """A process may have a limit of address space, as batch systems set it."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "net.onnx"
    path.write_bytes(packed)
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, before[1]))
    try:
        data = container.read(path).data
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert data == packed


def test_data_outside_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save_model(conv_net()[0], path, save_as_external_data=True, size_threshold=0, location="w.bin")
    with pytest.raises(ModelLoadError, match="other files"):
        load(path)


class TestEntries:
    """Both entries, once, in order, at the end, in the encoding that we write: or nothing."""

    @pytest.fixture
    def m(self, model: onnx.ModelProto) -> bytes:
        return model.SerializeToString()

    @pytest.fixture
    def text(self, about: Manifest) -> bytes:
        return manifest_entry(about)

    def test_the_right_ones_are_accepted(self, m: bytes, text: bytes) -> None:
        assert container.parse(m + text + digest_entry(m + text), "net.onnx").manifest

    def test_only_one(self, m: bytes, text: bytes) -> None:
        assert refused(m + text, "not both there")
        assert refused(m + digest_entry(m), "not both there")

    def test_swapped(self, m: bytes, text: bytes) -> None:
        assert refused(m + digest_entry(m) + text, "not both there")

    def test_twice(self, m: bytes, text: bytes, packed: bytes) -> None:
        once = m + text
        assert refused(once + text + digest_entry(once + text), "not both there")
        assert refused(packed + digest_entry(once))
        assert refused(packed + text + digest_entry(packed + text))

    def test_followed_by_another_field(self, m: bytes, packed: bytes) -> None:
        assert refused(packed + entry(b"author", b"me"), "not the last")
        assert refused(packed + m)

    def test_another_field_between(self, m: bytes, text: bytes) -> None:
        head = m + text + entry(b"author", b"me")
        assert refused(head + digest_entry(head), "not the last")

    def test_before_the_model(self, m: bytes, text: bytes) -> None:
        assert refused(text + digest_entry(text) + m, "not the last")

    def test_in_another_encoding(self, m: bytes, about: Manifest) -> None:
        value = about.model_dump_json().encode()
        reordered = write_bytes_field(VALUE, value) + write_bytes_field(KEY, MANIFEST_KEY)
        head = m + write_bytes_field(METADATA_PROPS, reordered)
        assert refused(head + digest_entry(head), "not the last")

    def test_a_digest_in_capitals_or_of_other_bytes(self, m: bytes, text: bytes) -> None:
        capitals = hashlib.sha256(m + text).hexdigest().upper().encode()
        assert refused(m + text + entry(DIGEST_KEY, capitals), "does not match")
        assert refused(m + text + digest_entry(m), "does not match")
        assert refused(m + text + entry(DIGEST_KEY, b""), "does not match")

    def test_a_manifest_that_is_none(self, m: bytes) -> None:
        head = m + entry(MANIFEST_KEY, b"{}")
        assert refused(head + digest_entry(head), "manifest")

    def test_an_artifact_edited_with_onnx(self, packed: bytes) -> None:
        edited = onnx.load_from_string(packed)
        edited.graph.node[0].name = "renamed"
        assert refused(edited.SerializeToString(), "does not match")

    def test_other_metadata_is_no_business_of_ours(self, m: bytes, about: Manifest) -> None:
        tagged = m + entry(b"author", b"me")
        assert container.parse(tagged, "net.onnx").manifest is None
        assert container.parse(container.append_manifest(tagged, about), "net.onnx").manifest == about


def test_another_manifest_leaves_the_model_as_it_was(
    model: onnx.ModelProto, about: Manifest, packed: bytes
) -> None:
    other = about.model_copy(update={"model_name": "Other", "plans": {"here": {"threads": 1}}})
    changed = container.replace_manifest(packed, other)
    assert container.parse(changed, "net.onnx").manifest == other
    assert changed.startswith(model.SerializeToString())
    assert container.replace_manifest(changed, about) == packed


def test_the_bytes_of_a_model_are_no_path(packed: bytes) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(packed)  # type: ignore[arg-type]
    assert str(caught.value).startswith("A model is loaded from a path, not from an object of type bytes.")


def test_what_torch_saved(packed: bytes) -> None:
    assert refused(b"PK\x03\x04" + packed, "is an archive, as torch.save writes it")
    assert refused(b"\x07\x00" + packed, "not an ONNX file")
