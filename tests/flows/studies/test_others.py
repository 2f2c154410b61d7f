"""A tuning that a study is given: found by folder or key wherever the store keeps it, and refused on another model."""

from pathlib import Path

import pytest

from flows.studies.others import find_tuned
from tasks.core.errors import InputError
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref, Store
from tasks.store.keys import stage_key
from tasks.store.remote.objects import Remote
from tasks.store.remote.store import CachedRemoteStore

OWN, OTHER = "a" * 64, "b" * 64


def source(weights: str) -> ModelSource:
    digests = {"weights": weights, "tokenizer": "t"}
    return ModelSource(path="/there", name="tiny", num_blocks=2, family="opt", context=8, **digests)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store, stage: str, seed: int = 0, **arguments) -> Ref:
    """An artifact of a stage with these inputs."""
    key, inputs = stage_key(stage, "tasks.store.files", {"seed": seed, **arguments}, ())
    parents = [value for value in arguments.values() if isinstance(value, Ref)]
    with store.publishing(stage, key) as out:
        (out / "plan.json").write_text(str(seed))
        return store.publish(stage, key, out, inputs, parents).ref


def test_it_is_found_by_folder_by_key_and_by_its_start(store):
    ref = made(store, "plug_in", model=source(OWN))
    folder = store.folder("plug_in", ref.key)
    for given in (str(folder), ref.key, ref.key[:10], f"plug_in/{ref.key[:10]}"):
        assert find_tuned(store, "old", given, source(OWN)) == ref


@pytest.mark.parametrize("given", ["", "*", "?", "[0-9]", "no-key", "tune/", "../x"])
def test_what_is_no_key_and_no_folder_of_the_store_is_refused(store, given):
    made(store, "plug_in", model=source(OWN))
    with pytest.raises(InputError, match=r"study\.other\.old = .*there is no such tuning in .*store; give the folder"):
        find_tuned(store, "old", given, source(OWN))


def test_a_folder_elsewhere_of_the_same_name_is_refused(store, tmp_path):
    ref = made(store, "plug_in", model=source(OWN))
    elsewhere = tmp_path / "elsewhere" / "plug_in" / ref.key
    elsewhere.mkdir(parents=True)
    with pytest.raises(InputError, match="there is no such tuning in"):
        find_tuned(store, "old", str(elsewhere), source(OWN))


def test_a_start_of_several_keys_is_refused(store):
    refs = [made(store, "plug_in", seed, model=source(OWN)) for seed in range(17)]
    starts = [ref.key[0] for ref in refs]
    twice = next(start for start in starts if starts.count(start) > 1)
    with pytest.raises(InputError, match=rf"= '{twice}': {starts.count(twice)} tunings begin with that"):
        find_tuned(store, "old", twice, source(OWN))


def test_a_tuning_of_another_model_is_refused_however_it_was_made(store):
    emulator = made(store, "distill", emulator=made(store, "emulate", model=source(OTHER)), teacher=source(OWN))
    inside = made(store, "tune", emulator=emulator, model=None)
    made_so = [made(store, "plug_in", model=source(OTHER)), made(store, "select", tunings=inside), inside]
    for ref in [*made_so, made(store, "tune", 1, model=source(OTHER))]:
        with pytest.raises(InputError, match="a tuning of a model with weights bbbbbbbbbbbb, tiny has aaaaaaaaaaaa"):
            find_tuned(store, "old", ref.key, source(OWN))
        assert find_tuned(store, "old", ref.key, source(OTHER)) == ref


def test_a_tuning_whose_emulator_is_gone_is_refused(store):
    gone = Ref(stage="emulate", key="c" * 64, digest="d" * 64)
    ref = made(store, "tune", emulator=gone, model=None)
    with pytest.raises(InputError, match="which model was tuned is unknown"):
        find_tuned(store, "old", ref.key, source(OWN))


def test_a_tuning_that_only_the_object_store_has_is_found(objects, tmp_path):
    ref = made(CachedRemoteStore(tmp_path / "theirs", Remote(objects.url)), "plug_in", model=source(OWN))
    here = CachedRemoteStore(tmp_path / "here", Remote(objects.url))
    assert find_tuned(here, "old", ref.key[:10], source(OWN)) == ref
    assert find_tuned(here, "old", str(here.folder("plug_in", ref.key)), source(OWN)) == ref
