import errno
import json
import os
import random
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamd.engines.cache import EngineCache, EngineKey, new_manifest, read_manifest
from streamd.engines.contract import Built
from streamd.errors import EngineError

KEY = EngineKey(
    model="yard",
    sha256="ab" * 32,
    backend="openvino",
    version="2026.4.1",
    device="CPU: Some Processor; 2 cores",
    precision="auto",
    shapes="640x640",
    ladder="1 2 4",
    graph="1/300",
)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    cache = EngineCache(tmp_path / "engines")
    cache.prepare(KEY)
    return cache


def stored(cache: EngineCache, key: EngineKey = KEY, blob: bytes = b"engine") -> Path:
    with cache.building(key) as folder:
        (folder / "1.blob").write_bytes(blob)
        manifest = new_manifest(key, Built("bf16", {"streams": 2}), {"agreement": 1.0}, 3.456)
        return cache.store(folder, manifest).folder


def test_what_was_stored_is_found_with_all_that_is_known_of_it(cache: EngineCache) -> None:
    folder = stored(cache)
    entry = cache.find(KEY)
    assert entry is not None
    assert entry.folder == folder
    manifest = entry.manifest
    assert (manifest.key, manifest.built) == (KEY, Built("bf16", {"streams": 2}))
    assert (manifest.proof, manifest.build_s) == ({"agreement": 1.0}, 3.46)
    assert (list(manifest.files), manifest.size_bytes) == (["1.blob"], 6)
    assert manifest == read_manifest(folder)


@pytest.mark.parametrize("part", ["sha256", "backend", "version", "device", "precision", "ladder"])
def test_another_key_is_a_miss_that_names_the_part(cache: EngineCache, part: str) -> None:
    stored(cache)
    asked = replace(KEY, **{part: "new"})
    assert cache.find(asked) is None
    assert cache.why_missing(asked) == f"{part} was {getattr(KEY, part)}, is new"


def test_a_miss_is_explained_by_the_nearest_engine_of_the_same_model(cache: EngineCache) -> None:
    assert cache.why_missing(KEY) == "no engine of yard was built yet"
    stored(cache, replace(KEY, device="another", version="1", ladder="1"))
    stored(cache, replace(KEY, model="zoo", ladder="1 2"))
    stored(cache, replace(KEY, ladder="1 2", version="2"))
    assert cache.why_missing(KEY) == "version was 2, is 2026.4.1; ladder was 1 2, is 1 2 4"


def test_a_file_that_changed_or_is_gone_is_an_error_that_names_it(cache: EngineCache) -> None:
    blob = stored(cache) / "1.blob"
    blob.write_bytes(b"Engine")
    with pytest.raises(EngineError, match=r"1\.blob: its checksum is wrong"):
        cache.find(KEY)
    blob.unlink()
    with pytest.raises(EngineError, match=r"1\.blob: No such file"):
        cache.find(KEY)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 0}', "\0"])
def test_a_manifest_that_cannot_be_read_is_an_error_and_not_listed(
    cache: EngineCache, text: str
) -> None:
    folder = stored(cache)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(EngineError, match=str(folder)):
        cache.find(KEY)
    assert cache.entries() == []
    assert cache.leftovers() == [folder]


def test_nothing_is_there_until_all_is(cache: EngineCache) -> None:
    with cache.building(KEY) as folder:
        (folder / "1.blob").write_bytes(b"half an eng")
        assert cache.find(KEY) is None
        assert cache.entries() == []
    assert cache.find(KEY) is None
    assert not folder.exists()
    assert cache.leftovers() == []


def test_storing_again_replaces(cache: EngineCache) -> None:
    stored(cache, blob=b"old")
    folder = stored(cache, blob=b"new")
    assert (folder / "1.blob").read_bytes() == b"new"
    assert cache.find(KEY) is not None
    assert len(cache.entries()) == 1


def test_what_a_killed_build_left_is_told_and_goes_with_the_next_build(cache: EngineCache) -> None:
    left_over = cache.root / f".building-{KEY.folder}-abc"
    left_over.mkdir()
    assert cache.leftovers() == [left_over]
    stored(cache)
    assert not left_over.exists()


def test_what_a_killed_build_left_goes_whatever_the_name_of_the_model(cache: EngineCache) -> None:
    key = replace(KEY, model="yard [1]*?")
    (cache.root / f".building-{key.folder}-abc").mkdir()
    stored(cache, key)
    assert not list(cache.root.glob(".building-*"))


def test_a_folder_in_which_somebody_builds_is_no_left_over(cache: EngineCache) -> None:
    with cache.building(KEY) as folder:
        assert folder.exists()
        assert cache.leftovers() == []


def test_one_builds_while_others_wait(cache: EngineCache) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with EngineCache(cache.root).building(KEY):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with cache.building(KEY):
        inside.set()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_newest_comes_first(cache: EngineCache) -> None:
    for number, ladder in enumerate(["1", "1 2", "1 2 4"]):
        path = stored(cache, replace(KEY, ladder=ladder)) / "manifest.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "created": 100 + number}))
    assert [entry.manifest.key.ladder for entry in cache.entries()] == ["1 2 4", "1 2", "1"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError) as caught:
        EngineCache(tmp_path / "file" / "engines").prepare(KEY)
    assert str(caught.value) == f"{tmp_path}/file/engines: Not a directory"


def test_others_may_read_what_one_user_built(cache: EngineCache) -> None:
    usual = os.umask(0o077)
    try:
        folder = stored(cache)
    finally:
        os.umask(usual)
    assert os.stat(folder).st_mode & 0o055 == 0o055
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())


def test_a_lock_that_another_user_has_left_is_taken(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root built here, or began to: the service may still build."""
    stored(cache)
    lock = cache.root / f".{KEY.folder}.lock"
    lock.chmod(0o444)
    usual = Path.open

    def as_another(path: Path, mode: str = "r", *more: Any, **others: Any) -> Any:
        if path == lock and mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, mode, *more, **others)

    monkeypatch.setattr(Path, "open", as_another)
    with cache.building(KEY):
        assert not cache.leftovers()
    (cache.root / f".building-{KEY.folder}-x").mkdir()
    assert [path.name for path in cache.leftovers()] == [f".building-{KEY.folder}-x"]


def test_others_may_take_the_lock(cache: EngineCache) -> None:
    usual = os.umask(0o077)
    try:
        stored(cache)
    finally:
        os.umask(usual)
    assert (cache.root / f".{KEY.folder}.lock").stat().st_mode & 0o044 == 0o044


def test_no_engine_can_be_put_where_another_user_has_a_damaged_one(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored(cache)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(EngineError, match=f"^{folder}: is damaged, and another user's$"):
        cache.prepare(KEY)
    cache.prepare(replace(KEY, ladder="1"))


def test_what_may_not_be_removed_is_one_line(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored(cache)

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(EngineError, match=f"^{folder}: Permission denied$"):
        cache.remove(folder)
    assert cache.find(KEY)
    assert not cache.leftovers()


def test_a_folder_that_this_user_may_not_look_into_holds_no_engine(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(cache)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refused)
    assert cache.find(KEY) is None
    assert cache.why_missing(KEY) == "no engine of yard was built yet"
    assert not cache.leftovers()


def find_damaged(cache: EngineCache, rounds: int) -> None:
    """Flips bits of either file of an engine: it is found whole, missing, or named as damaged."""
    folder = stored(cache, blob=b"engine" * 50)
    for seed in range(rounds):
        rng = random.Random(seed)
        path = folder / ("1.blob" if rng.random() < 0.2 else "manifest.json")
        whole = path.read_bytes()
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found = None
        with suppress(EngineError):
            found = cache.find(KEY)
        assert found is None or path.name != "1.blob"
        cache.entries()
        cache.leftovers()
        path.write_bytes(whole)


def test_a_flipped_bit_is_found_or_does_no_harm(cache: EngineCache) -> None:
    find_damaged(cache, 150)


@pytest.mark.slow
def test_thousands_of_flipped_bits_are_found_or_do_no_harm(cache: EngineCache) -> None:
    find_damaged(cache, 5000)
