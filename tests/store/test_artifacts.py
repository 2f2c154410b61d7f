"""An artifact is complete or absent, whatever happened to it on disk (F11, F12, F13, F24)."""

import json
import logging
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.core.errors import CrashError, EnvironmentFault
from tasks.store.artifacts import MANIFEST, Artifact, Store
from tasks.store.keys import stage_key

KEY, INPUTS = stage_key("sample", "tasks.store.files", {"seed": 0}, ())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store: Store, content: bytes = b"tensor data " * 50, metrics: str = "1") -> Artifact:
    """Publish three files under KEY."""
    with store.publishing("sample", KEY) as out:
        (out / "deep").mkdir()
        (out / "deep" / "weights.safetensors").write_bytes(content)
        (out / "plan.json").write_text("{}")
        (out / "metrics.jsonl").write_text(metrics)
        return store.publish("sample", KEY, out, INPUTS, summary={"loss": 0.5})


def test_published_is_found_with_its_summary(store):
    published = publish(store)
    found = store.find("sample", KEY)
    assert found.ref == published.ref
    assert found.ref.summary == {"loss": 0.5}
    assert store.open(found.ref) == store.folder("sample", KEY)
    assert not list((store.root / "tmp").iterdir())


def test_the_digest_says_content_not_timings(store, tmp_path):
    first = publish(store)
    same = publish(Store(tmp_path / "second"), metrics="2")
    other = publish(Store(tmp_path / "third"), content=b"other")
    assert first.ref.digest == same.ref.digest != other.ref.digest


def test_who_publishes_second_gets_what_is_there(store):
    first = publish(store)
    assert publish(store, content=b"later").ref == first.ref


def test_nothing_is_left_when_the_writer_fails(store):
    with suppress(RuntimeError), store.publishing("sample", KEY) as out:
        (out / "plan.json").write_text("{}")
        raise RuntimeError("half way")
    assert store.find("sample", KEY) is None
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("name", ["model.bin", "state.pt", "cache.pkl", "run.sh", "noending"])
def test_files_that_could_run_are_never_published(store, name):
    with store.publishing("sample", KEY) as out:
        (out / name).write_bytes(b"x")
        with pytest.raises(CrashError, match=f"wrote {name}; artifacts hold only"):
            store.publish("sample", KEY, out, INPUTS)


def damaged_is_recomputed(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Found to be damaged: one warning, moved away, absent, and can be published again."""
    with caplog.at_level(logging.WARNING):
        assert store.find("sample", KEY) is None
        assert store.find("sample", KEY) is None
    assert len([record for record in caplog.records if "is damaged" in record.getMessage()]) == 1
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert publish(store).ref == store.find("sample", KEY).ref


FILES = ["deep/weights.safetensors", "plan.json", "metrics.jsonl", MANIFEST]


@pytest.mark.parametrize("name", FILES)
def test_f11_truncated(store, caplog, name):
    path = publish(store).folder / name
    os.truncate(path, path.stat().st_size - 1)
    damaged_is_recomputed(store, caplog)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_f12_flipped_bit(store, caplog, name, place):
    path = publish(store).folder / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    damaged_is_recomputed(store, caplog)


@pytest.mark.parametrize("name", FILES)
def test_f13_deleted_file(store, caplog, name):
    (publish(store).folder / name).unlink()
    damaged_is_recomputed(store, caplog)


def test_f13_deleted_artifact_is_a_miss_and_its_reference_says_what_to_do(store):
    ref = publish(store).ref
    shutil.rmtree(store.folder("sample", KEY))
    assert store.find("sample", KEY) is None
    with pytest.raises(EnvironmentFault, match=r"no longer in .*; run the same command again"):
        store.open(ref)


def test_a_reference_to_other_content_is_not_served(store):
    ref = publish(store).ref.model_copy(update={"digest": "0" * 64})
    with pytest.raises(EnvironmentFault, match="no longer"):
        store.open(ref)


class Explosive:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (self.trace.write_text, ("it ran",))


def test_f24_foreign_folder_under_a_valid_key(store, caplog, tmp_path):
    folder = store.folder("sample", KEY)
    folder.mkdir(parents=True)
    (folder / "result.pkl").write_bytes(pickle.dumps(Explosive(tmp_path / "trace")))
    damaged_is_recomputed(store, caplog)
    assert not (tmp_path / "trace").exists()


def test_f24_a_pickle_added_to_an_artifact(store, caplog, tmp_path):
    (publish(store).folder / "extra.pkl").write_bytes(pickle.dumps(Explosive(tmp_path / "trace")))
    damaged_is_recomputed(store, caplog)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["plan.json", MANIFEST])
def test_f24_a_file_replaced_by_a_link(store, caplog, tmp_path, name):
    path = publish(store).folder / name
    shutil.copy(path, tmp_path / "elsewhere")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    damaged_is_recomputed(store, caplog)


def test_f24_the_folder_replaced_by_a_link(store, tmp_path):
    folder = publish(store).folder
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    found = store.find("sample", KEY)
    assert found is None or not found.folder.is_symlink()


def test_f24_an_artifact_under_another_key(store, caplog):
    folder = publish(store).folder
    other_key, _ = stage_key("sample", "tasks.store.files", {"seed": 1}, ())
    shutil.copytree(folder, store.folder("sample", other_key))
    assert store.find("sample", other_key) is None
    assert "belongs to another key" in caplog.text


def test_f24_a_manifest_rewritten_for_another_key_is_refused(store, caplog):
    folder = publish(store).folder
    other_key, _ = stage_key("sample", "tasks.store.files", {"seed": 1}, ())
    copy = store.folder("sample", other_key)
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / MANIFEST).read_text()) | {"key": other_key}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert store.find("sample", other_key) is None
    assert "other inputs than its key" in caplog.text


def test_verify_everything_reads_what_time_stamps_hide(store, monkeypatch):
    monkeypatch.setattr("tasks.store.digests.SETTLED_SECONDS", -1.0)
    folder = publish(store).folder
    assert store.verify_everything() == []
    monkeypatch.setattr(store, "digests", lambda path: next(iter([])))
    path = folder / "deep" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    assert store.verify_everything() == [folder]
    assert not folder.exists()


def test_too_little_room_is_said_with_numbers(store):
    store.check_writable(1)
    with pytest.raises(EnvironmentFault, match=r"needs about [\d,]+ MiB .* but has [\d,]+ MiB free"):
        store.check_writable(2**60)


@pytest.mark.parametrize("name", ["chat_template.jinja", "qwen.tiktoken", "tokenizer.model"])
def test_files_of_tokenizers_may_be_published(store, name):
    with store.publishing("sample", KEY) as out:
        (out / name).write_text("{{ messages }}")
        assert store.publish("sample", KEY, out, INPUTS).folder.joinpath(name).exists()
