import os
import socket

import pytest

from forked import fork, wait
from vitlet.data.index import Index, open_index
from vitlet.data.splits import SPLITS
from vitlet.errors import DataError


def test_flat_folder_has_no_labels(tmp_path, tree, png, paths):
    index = open_index(tree(tmp_path / "photos", "b.png", "a.jpg", "c.TIFF", "notes.txt", ".hidden.png"))
    assert paths(index) == ["a.jpg", "b.png", "c.TIFF"]
    assert index.name == "photos"
    assert index.classes == ()
    assert index.labels.tolist() == [-1, -1, -1]
    assert index.splits.tolist() == [0, 0, 0]
    assert index.read(0) == png(1)
    assert index.size(0) == len(png(1))


def test_class_folders_hold_what_lies_below_them(tmp_path, tree, paths):
    index = open_index(tree(tmp_path, "dog/x/1.png", "cat/x/1.png", "cat/0.png", "dog/2.png"))
    assert paths(index) == ["cat/0.png", "cat/x/1.png", "dog/2.png", "dog/x/1.png"]
    assert index.classes == ("cat", "dog")
    assert index.labels.tolist() == [0, 0, 1, 1]


def test_nested_folders_with_equal_names_do_not_merge(tmp_path, tree):
    """`a/x` and `b/x` are not one class x."""
    index = open_index(tree(tmp_path, "a/x/1.png", "b/x/1.png"))
    assert index.classes == ("a", "b")
    assert index.labels.tolist() == [0, 1]


def test_images_beside_folders_mean_no_labels_and_that_is_said(tmp_path, tree):
    index = open_index(tree(tmp_path, "2024/1.png", "2025/1.png", "stray.png"))
    assert index.classes == ()
    assert "stray.png" in index.notes[0]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Train", "validation", "testing"), ("train2017", "val2017", "test")],
)
def test_splits_with_classes(tmp_path, train, val, test, tree, paths):
    tree(tmp_path, f"{train}/cat/1.png", f"{train}/dog/1.png", f"{val}/dog/2.png", f"{test}/3.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}")
    index = open_index(tmp_path)
    found = {
        path: (int(label), SPLITS[split])
        for path, label, split in zip(paths(index), index.labels, index.splits, strict=True)
    }
    assert found == {
        f"{train}/cat/1.png": (0, "train"),
        f"{train}/dog/1.png": (1, "train"),
        f"{val}/dog/2.png": (1, "val"),
        f"{test}/3.png": (-1, "test"),
    }


def test_a_class_may_be_called_train(tmp_path, tree):
    assert open_index(tree(tmp_path, "bus/1.png", "car/1.png", "train/1.png")).classes == ("bus", "car", "train")


def test_splits_without_labels(tmp_path, tree):
    index = open_index(tree(tmp_path, "train/1.png", "val/2.png"))
    assert index.classes == ()
    assert index.splits.tolist() == [0, 1]


def lost(index: Index) -> str:
    """The message for whoever learns the classes of this data."""
    with pytest.raises(DataError) as caught:
        index.require_every_class()
    assert caught.value.exit_code == 3
    return str(caught.value)


class TestFoldersWithoutAnImageBeside:
    """They are classes for whoever learns labels, and images like others for everybody else."""

    def test_years_are_read_as_classes_and_that_is_said(self, tmp_path, tree):
        index = open_index(tree(tmp_path / "photos", "2023/1.png", "2023/2.png", "2024/1.png"))
        assert index.classes == ("2023", "2024")
        assert index.notes == ("Folders are read as 2 classes: 2023, 2024",)
        index.require_every_class()
        beside = open_index(tree(tmp_path / "photos", "cover.png"))
        assert beside.classes == ()
        assert not any("read as 2 classes" in note for note in beside.notes)

    def test_the_note_is_one_line_for_any_number_and_for_all_splits(self, tmp_path, tree):
        names = [f"{split}/{i}/1.png" for split in ("train", "val") for i in range(1, 13)]
        assert open_index(tree(tmp_path / "12", *names)).notes == (
            "Folders are read as 12 classes: 1, 2, 3, 4, 5 and 7 more",
        )
        assert open_index(tree(tmp_path / "1", "cat/1.png")).notes == ("Folders are read as 1 class: cat",)

    def test_a_folder_without_an_image_is_a_note_and_a_class_that_vanished_a_refusal(self, tmp_path, tree):
        (tree(tmp_path / "photos", "2023/1.png") / "videos").mkdir()
        (tmp_path / "photos/videos/film.mp4").write_bytes(b"x")
        index = open_index(tmp_path / "photos")
        assert (len(index), index.classes) == (1, ("2023",))
        assert index.notes == (
            "Folders are read as 1 class: 2023",
            "1 folder without an image: videos. What learns labels refuses it",
        )
        message = lost(index)
        assert message.startswith("1 class without an image: videos (photos). Files need one of these suffixes: .bmp ")
        assert "Fix: make it readable, add images or remove it; if folders are no classes, put" in message

    def test_a_folder_without_an_image_changes_no_fingerprint(self, tmp_path, tree):
        before = open_index(tree(tmp_path, "a/1.png", "b/1.png"))
        (tmp_path / "c").mkdir()
        after = open_index(tmp_path)
        assert after.fingerprint == before.fingerprint
        assert [name for name, _ in after.vanished] == ["c"]
        before.require_every_class()

    def test_beside_images_and_out_of_training_it_is_no_class(self, tmp_path, tree):
        (tree(tmp_path / "a", "cover.png", "x/1.png") / "empty").mkdir()
        (tree(tmp_path / "b", "train/cat/1.png", "val/cat/1.png") / "val/dog").mkdir()
        for name in ("a", "b"):
            open_index(tmp_path / name).require_every_class()
        assert "In val 1 class without an image: dog" in open_index(tmp_path / "b").notes
        (tmp_path / "b/train/cow").mkdir()
        index = open_index(tmp_path / "b")
        assert "In train 1 folder without an image: cow. What learns labels refuses it" in index.notes
        assert "1 class without an image: cow" in lost(index)

    def test_what_was_not_read_in_it_is_the_reason(self, tmp_path, tree):
        root = tree(tmp_path, "a/1.png", "ab/1.png")
        for name in ("ab/other.png", "b/1.png", "c/1.png"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).symlink_to("nowhere.png")
        assert open_index(root).vanished == (("b", "b/1.png: a broken link"), ("c", "c/1.png: a broken link"))
        assert "2 classes without an image: b, c" in lost(open_index(root))


class TestLayoutsThatAreNotClear:
    def test_each_has_its_own_message(self, tmp_path, tree, problem):
        (tmp_path / "empty").mkdir()
        assert "The folder is empty" in problem(tmp_path / "empty")
        (tmp_path / "phone").mkdir()
        (tmp_path / "phone" / "a.HEIC").write_bytes(b"x")
        assert "Found 1 .heic" in problem(tmp_path / "phone")
        message = problem(tree(tmp_path / "v", "train/cat/1.png", "val/cat/1.png", "val/cow/1.png"))
        assert "1 of 2 classes are only in val or test" in message
        assert "cow" in message
        message = problem(tree(tmp_path / "w", "train/cat/1.png", "train/cow/1.png", "val/cat/1.png", "val/kine/1.png"))
        assert "train and the other splits have different classes" in message
        assert "train has no images of: kine; only train has: cow" in message
        message = problem(tree(tmp_path / "m", "train/cat/1.png", "val/cat/1.png", "extra/1.png"))
        assert "extra beside train, val" in message
        for number, other in enumerate(("eval/cat/1.png", "unlabeled/1.png", "cover.png")):
            message = problem(tree(tmp_path / f"m{number}", "train/cat/1.png", "train/cow/1.png", other))
            assert f"{other.split('/')[0]} beside train" in message
        message = problem(tree(tmp_path / "flat", "train/1.png", "unlabelled/1.png"))
        assert "unlabelled beside train" in message
        message = problem(tree(tmp_path / "d", "train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"))
        assert "2 folders for the split val: val, valid" in message

    def test_a_class_may_be_called_train_and_that_is_said(self, tmp_path, tree):
        index = open_index(tree(tmp_path / "vehicles", "bus/1.png", "car/1.png", "train/1.png"))
        assert index.classes == ("bus", "car", "train")
        assert index.notes[0] == "train is read as a class like bus, car, not as a split"
        control = open_index(tree(tmp_path / "control", "bus/1.png", "car/1.png"))
        assert control.notes == ("Folders are read as 2 classes: bus, car",)

    @pytest.mark.parametrize(("train", "val", "test"), [
        ("train", "valid", "testing"), ("training", "validation", "test"), ("Train", "VAL", "Test"),
    ])  # fmt: skip
    def test_the_usual_names_of_splits(self, train, val, test, tmp_path, tree):
        index = open_index(tree(tmp_path, f"{train}/cat/1.png", f"{val}/cat/1.png", f"{test}/cat/1.png"))
        assert sorted(index.splits.tolist()) == [0, 1, 2]
        assert index.classes == ("cat",)

    def test_missing_and_wrong_sources(self, tmp_path, tree, problem):
        tree(tmp_path / "photos", "1.png")
        assert "Did you mean photos?" in problem(tmp_path / "photoz")
        assert "Fix: " in problem(tmp_path / "xxxxxxxxxxxx" / "train")
        assert "1.png" in problem(tmp_path / "photos" / "1.png")

    def test_one_image_and_one_class_are_enough(self, tmp_path, tree):
        assert len(open_index(tree(tmp_path / "one", "1.png"))) == 1
        assert open_index(tree(tmp_path / "class", "cat/1.png")).classes == ("cat",)


class TestImagesThatAreNotRead:
    def test_other_formats_are_counted_below_every_folder(self, tmp_path, tree):
        names = ["a/1.HEIC", "a/2.heic", "a/3.avif", "b/x/4.jp2", "b/5.heic", "b/6.jpg_large"]
        index = open_index(tree(tmp_path, "a/1.png", "b/1.png", *names))
        assert index.notes[1:] == (
            "6 files look like images in formats vitlet does not read: 3 .heic, 1 .avif, 1 .jp2, 1 .jpg_large",
        )
        assert not index.num_skipped

    def test_of_many_formats_the_most_frequent_are_named(self, tmp_path, tree):
        others = [f"1.{suffix}" for suffix in ("cr2", "dng", "nef", "orf", "raf", "pef", "heic")] + ["2.heic"]
        assert open_index(tree(tmp_path, "1.png", *others)).notes == (
            "8 files look like images in formats vitlet does not read: 2 .heic, 1 .cr2, 1 .dng, 1 .nef, 1 .orf"
            " and 2 more",
        )

    def test_files_without_a_suffix_are_told_with_the_first_of_them(self, tmp_path, tree):
        (note,) = open_index(tree(tmp_path, "1.png", "z/n1", "n2", "a/n3")).notes[1:]
        assert note.startswith("3 files without a suffix were not read, such as a/n3. Images are files named .bmp ")
        (note,) = open_index(tree(tmp_path / "one", "1.png", "n1")).notes
        assert note.startswith("1 file without a suffix was not read, such as n1. ")

    def test_what_is_plainly_no_image_is_not_announced(self, tmp_path, tree):
        names = ["README.txt", "README", "LICENSE", "a.json", "b.csv", "Thumbs.db", ".DS_Store", "c.xml", "d.mp4"]
        root = tree(tmp_path, "1.png", *names)
        os.mkfifo(root / "pipe")
        (root / "broken").symlink_to("nowhere")
        (root / "self").symlink_to("self")
        assert open_index(root).notes == ()

    def test_the_images_that_are_read_keep_their_fingerprint(self, tmp_path, tree):
        """Otherwise a photo that a phone adds would end every run on the folder."""
        before = open_index(tree(tmp_path, "1.png", "2.png"))
        (tmp_path / "3.heic").write_bytes(b"x")
        after = open_index(tmp_path)
        assert after.notes
        assert (after.fingerprint, len(after)) == (before.fingerprint, 2)


class TestLinksAndSpecialFiles:
    def test_the_note_says_how_many_there_are(self, tmp_path, tree):
        root = tree(tmp_path / "d", "9.png")
        for i in range(4):
            (root / f"{i}.png").symlink_to("nowhere.png")
        (note,) = open_index(root).notes
        named = ", ".join(f"{i}.png (a broken link)" for i in range(4))
        assert note == f"4 places were not read: {named}"
        for i in range(4, 7):
            (root / f"{i}.png").symlink_to("nowhere.png")
        (note,) = open_index(root).notes
        assert note == f"7 places were not read: {named}, 4.png (a broken link) and 2 more"

    def test_loops_end_and_no_folder_has_two_names(self, tmp_path, tree, paths, monkeypatch):
        root = tree(tmp_path / "d", "a/1.png", "b/2.png", "b/c/3.png")
        (root / "a" / "loop").symlink_to("..")
        (root / "b" / "c" / "again").symlink_to("../../a")
        (root / "self").symlink_to("self")
        (root / "self.png").symlink_to("self.png")
        read, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda place: read.append(os.fsdecode(place)) or scandir(place))
        index = open_index(root)
        assert len(read) < 20, "not round and round"
        assert paths(index) == ["a/1.png", "b/2.png", "b/c/3.png"]
        reasons = dict(index.skipped)
        assert "its own name" in reasons["a/loop"]
        assert "its own name" in reasons["b/c/again"]
        assert reasons["self.png"] == "a broken link"

    def test_links_that_leave_need_a_word(self, tmp_path, tree, png, paths):
        outside = tree(tmp_path / "outside", "5.png", "deep/6.png")
        (outside / "back").symlink_to(tmp_path / "d")
        root = tree(tmp_path / "d", "1.png", "in/2.png")
        (root / "out").symlink_to(outside)
        (root / "twice").symlink_to(outside)
        (root / "file.png").symlink_to(outside / "5.png")
        (root / "up").symlink_to(tmp_path)
        index = open_index(root)
        assert paths(index) == ["1.png", "in/2.png"]
        assert index.num_skipped == 4
        assert "--follow-outside" in index.notes[-1]
        followed = open_index(root, follow_outside=True)
        assert paths(followed) == ["1.png", "file.png", "in/2.png", "out/5.png", "out/deep/6.png"]
        assert followed.read(1) == png(0)

    def test_a_class_that_is_a_link_outside_does_not_vanish_in_silence(self, tmp_path, tree):
        tree(tmp_path / "store", "cow/1.png")
        root = tree(tmp_path / "d", "cat/1.png")
        (root / "cow").symlink_to(tmp_path / "store" / "cow")
        message = lost(open_index(root))
        assert "1 class without an image: cow" in message
        assert "--follow-outside" in message
        followed = open_index(root, follow_outside=True)
        assert followed.classes == ("cat", "cow")
        followed.require_every_class()

    def test_special_files_never_block(self, tmp_path, tree, paths):
        root = tree(tmp_path, "1.png")
        os.mkfifo(root / "pipe.png")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(root / "socket.png"))
        (root / "broken.png").symlink_to("nowhere.png")
        index = open_index(root)
        assert paths(index) == ["1.png"]
        assert dict(index.skipped) == {
            "pipe.png": "not a regular file",
            "socket.png": "not a regular file",
            "broken.png": "a broken link",
        }

    def test_hard_links_are_files_of_their_own(self, tmp_path, tree):
        root = tree(tmp_path, "1.png")
        os.link(root / "1.png", root / "2.png")
        assert len(open_index(root)) == 2

    @pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
    def test_unreadable_folders_are_named(self, tmp_path, tree):
        some = tree(tmp_path / "some", "a/1.png", "a/secret/2.png", "b/1.png")
        all_of_it = tree(tmp_path / "all", "a/1.png", "b/1.png")
        (tmp_path / "cache").mkdir(mode=0o777)
        os.chmod(tmp_path / "cache", 0o777)
        os.chmod(some / "a" / "secret", 0)
        os.chmod(all_of_it / "b", 0)
        for folder in (tmp_path, *tmp_path.parents[:3]):  # one more under pytest-xdist
            os.chmod(folder, 0o755)

        def body() -> None:
            os.setuid(65534)
            index = open_index(some, cache=tmp_path / "cache")
            assert (index.num_skipped, index.skipped[0][0]) == (1, "a/secret")
            with pytest.raises(DataError, match=r"1 class without an image: b.*Permission denied"):
                open_index(all_of_it, cache=tmp_path / "cache").require_every_class()

        error_file = tmp_path / "cache/error.txt"
        assert wait(fork(body, error_file=error_file)) == 0, error_file.read_text()


def test_names_of_all_kinds_survive(tmp_path, tree, paths):
    names = [
        b"\xff.png",
        b"new\nline.png",
        b"\x1b[31mred.png",
        "e\u0301.png".encode(),
        "é.png".encode(),
        b"-rf.png",
        b" .png",
    ]
    names += [b"<img onerror=x>.png", b"=cmd.png", "\u202egnp.png".encode(), b"a" * 251 + b".png"]
    index = open_index(tree(tmp_path, *(b"cl\xffss\n/" + name for name in names)))
    assert [os.fsencode(p) for p in paths(index)] == sorted(b"cl\xffss\n/" + name for name in names)
    assert os.fsencode(index.classes[0]) == b"cl\xffss\n"
    assert all(index.read(i).startswith(b"\x89PNG") for i in range(len(index)))


def test_order_and_bits_do_not_depend_on_the_listing(tmp_path, monkeypatch, tree, paths):
    names = [f"{c}/{i}.png" for c in ("a", "a-b", "a b", "ä") for i in range(20)]
    tree(tmp_path / "data", *names)
    straight = open_index(tmp_path / "data", cache=tmp_path / "1")
    scandir = os.scandir

    class Backwards:
        def __init__(self, place):
            with scandir(place) as entries:
                self._entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    backwards = open_index(tmp_path / "data", cache=tmp_path / "2")
    assert [os.fsencode(p) for p in paths(straight)] == sorted(os.fsencode(n) for n in names)
    assert paths(backwards) == paths(straight)
    assert backwards.fingerprint == straight.fingerprint
