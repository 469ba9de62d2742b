"""Durable writing; how it fails under a run stands in `tests/faults`."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vitlet import disk
from vitlet.disk import (
    is_inside,
    new_folder,
    read_json,
    storage_error,
    sweep,
    sweep_abandoned,
    temporary_place,
    to_json_bytes,
    write_file,
    write_folder,
    write_json,
)
from vitlet.errors import CheckpointError, ResourceError

CALLS = ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir")


def crashes(work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in a child that ends at its n-th call, for n = 1, 2, …; yields after each end."""
    for number in range(1, 100):
        pid = os.fork()
        if not pid:
            left = number

            def wrap(call: Callable) -> Callable:
                def counted(*args: object, **kwargs: object) -> object:
                    nonlocal left
                    left -= 1
                    if not left:
                        os._exit(77)
                    return call(*args, **kwargs)

                return counted

            try:
                for name in CALLS:
                    setattr(os, name, wrap(getattr(os, name)))
                work()
            finally:
                os._exit(0)
        yield os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_file_is_old_or_new_at_every_crash_point(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    points = 0
    for status in crashes(lambda: write_file(path, b"new")):
        assert path.read_bytes() in (b"old", b"new")
        points += 1
        if status == 0:
            break
    assert path.read_bytes() == b"new"
    assert points > 5
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_old_or_new_and_never_half_at_every_crash_point(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    old, new = {"a": b"1", "b": b"1"}, {"a": b"2", "c": b"2", "d": b"2"}
    write_folder(path, old)
    seen = []
    for status in crashes(lambda: write_folder(path, new)):
        if not path.exists():
            seen.append("neither")
            sweep(tmp_path)  # the window between two renames; the next start closes it
        content = {p.name: p.read_bytes() for p in path.iterdir()}
        assert content in (old, new)
        seen.append("old" if content == old else "new")
        if status == 0:
            break
    assert seen.count("neither") <= 1
    assert {"old", "new"} <= set(seen)
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert {p.name: p.read_bytes() for p in path.iterdir()} == new


def test_a_folder_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    opened: dict[int, str] = {}

    def note(name: str, real: Callable) -> Callable:
        def noted(*args: object, **kwargs: object) -> object:
            result = real(*args, **kwargs)
            if name == "open":
                opened[result] = Path(args[0]).name
            else:
                calls.append((name, opened[args[0]] if name == "fsync" else Path(args[0]).name))
            return result

        return noted

    for name in ("open", "fsync", "rename"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    write_folder(tmp_path / "folder", {"a": b"1"})
    temporary = temporary_place(tmp_path, "folder").name
    assert calls == [("fsync", "a"), ("fsync", temporary), ("rename", temporary), ("fsync", tmp_path.name)]
    calls.clear()
    with new_folder(tmp_path / "deep") as folder:
        (folder / "b").mkdir()
        (folder / "b" / "c").write_bytes(b"1")
    temporary = temporary_place(tmp_path, "deep").name
    flushed = [("fsync", "c"), ("fsync", "b"), ("fsync", temporary)]
    assert calls == [*flushed, ("rename", temporary), ("fsync", tmp_path.name)]


def test_a_folder_that_cannot_be_completed_leaves_nothing(tmp_path: Path) -> None:
    def run_out_of_space(folder: Path) -> None:
        (folder / "a").write_bytes(b"1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceError, match=r"cannot write .*x.*No space left"), new_folder(tmp_path / "x") as folder:
        run_out_of_space(folder)
    assert not list(tmp_path.iterdir())


def test_a_new_folder_replaces_an_old_one_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in (b"old", b"new"):
        with new_folder(path, replace=True) as folder:
            (folder / "a").write_bytes(content)
    with pytest.raises(ResourceError, match="not empty"), new_folder(path):
        pass
    assert (path / "a").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_is_inside_a_folder() -> None:
    assert is_inside("/a/b", "/a")
    assert is_inside(b"/a", b"/a")
    assert is_inside("/a", "/")
    assert not is_inside("/ab", "/a")
    assert not is_inside("/a", "/a/b")


def test_a_rename_that_fails_gives_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "folder", os.rename
    write_folder(path, {"a": b"old"})

    def refuse(source: object, target: object) -> None:
        if Path(source).name.startswith(".tmp-"):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ResourceError, match="Input/output error"):
        write_folder(path, {"a": b"new"})
    assert (path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_sweeping_spares_what_is_not_ours_and_follows_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("1")
    place = tmp_path / "place"
    place.mkdir()
    (place / ".tmp-1-link").symlink_to(precious, target_is_directory=True)
    (place / ".hidden").write_text("1")
    (place / "tmp-1").write_text("1")
    sweep(place)
    assert sorted(p.name for p in place.iterdir()) == [".hidden", "tmp-1"]
    assert (precious / "file").exists()
    sweep(tmp_path / "absent")


def child(work: Callable[[], object]) -> int:
    """Run `work` in a process and return its number when it is gone."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_what_a_process_left_is_swept_when_it_is_gone(tmp_path: Path) -> None:
    """Where no lock keeps others out: not what another host began, or a process that still runs."""
    gone = child(lambda: temporary_place(tmp_path, "half").mkdir())
    child(lambda: temporary_place(tmp_path, "file").write_text("half"))
    mine = temporary_place(tmp_path, "half")
    mine.mkdir()
    host = mine.name.removeprefix(f".tmp-{os.getpid()}-").removesuffix("-half")
    names = [f".tmp-{gone}-another{host}-x", f".tmp-{gone}-x", ".tmp-x", f"tmp-{gone}-{host}-x", f".tmp-1-{host}-x"]
    for name in names:
        (tmp_path / name).write_text("theirs")
    (tmp_path / f".tmp-{10**30}-{host}-x").write_text("no process has that number")
    assert len(list(tmp_path.iterdir())) == 9
    sweep_abandoned(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, *names}
    sweep_abandoned(tmp_path / "absent")


def test_a_file_is_written_to_no_place_that_a_link_leads_to(tmp_path: Path) -> None:
    """Nor do the remains of a process of the same number stand in the way."""
    precious = tmp_path / "precious"
    precious.write_text("1")
    for make in (lambda place: place.symlink_to(precious), lambda place: place.write_text("longer than the new")):
        make(temporary_place(tmp_path, "file"))
        write_file(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"
        assert not (tmp_path / "file").is_symlink()
    assert precious.read_text() == "1"
    with pytest.raises(FileExistsError):  # one that comes after it was looked
        disk._write(tmp_path / "file", [b"x"])


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"a": [1, None, "ü"]})
    assert read_json(tmp_path / "deep" / "x.json") == {"a": [1, None, "ü"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json_bytes({"a": float("nan")})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"broken\.json is not JSON"):
        read_json(tmp_path / "broken.json")
    with pytest.raises(CheckpointError, match=r"missing file .*absent\.json"):
        read_json(tmp_path / "absent.json")


def test_a_failed_write_is_answered_by_what_failed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    try:
        (tmp_path / "gone/metrics.jsonl").open("ab")
    except OSError as error:
        said = str(storage_error(error, tmp_path / "gone/metrics.jsonl", 0))
    assert "folder was removed or renamed" in said
    assert "space" not in said, "there is enough of it"
    for number, remedy in (
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "make the folder writable"),
        (errno.EIO, "check the disk"),
    ):
        said = str(storage_error(OSError(number, os.strerror(number)), tmp_path / "run" / "x", 2_000_000))
        assert f"Fix: {remedy}, then give the command again" in said
        assert "2.0 MB needed" in said
