"""Public data sets in small: the layouts that torchvision's classes read, made by hand, as an index."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets.cifar
import torchvision.datasets.flowers102
from scipy.io import savemat

from vitlet.data.decode import decode
from vitlet.data.downstream import open_public
from vitlet.data.index import Index, open_index
from vitlet.data.names import TITLES, PublicData
from vitlet.data.splits import SPLITS
from vitlet.errors import DataError

PICTURES = np.arange(5 * 3072, dtype=np.uint32).astype(np.uint8).reshape(5, 3072)


@pytest.fixture
def root(tmp_path: Path, tree, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three or four training and two test images of each data set; check sums of lists are not asked for."""
    for module in (torchvision.datasets.cifar, torchvision.datasets.flowers102):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    root = tmp_path / "tv"
    _flowers(root, tree)
    _pets(root, tree)
    _aircraft(root, tree)
    _cars(root, tree)
    _cifar(root)
    _inat(root, tree)
    return root


def _flowers(root: Path, tree) -> None:
    tree(root / "flowers-102" / "jpg", *(f"image_{i:05}.jpg" for i in range(1, 7)))
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.array([[1, 2, 102, 1, 2, 1]])})
    parts = {"trnid": [[1, 2]], "valid": [[3, 6]], "tstid": [[4, 5]]}
    savemat(root / "flowers-102" / "setid.mat", {name: np.array(ids) for name, ids in parts.items()})


def _pets(root: Path, tree) -> None:
    names = ["Abyssinian_1", "Bengal_2", "Bengal_3", "Abyssinian_4", "Bengal_5"]
    tree(root / "oxford-iiit-pet" / "images", *(f"{name}.jpg" for name in names))
    lists = root / "oxford-iiit-pet" / "annotations"
    lists.mkdir()
    lines = [f"{name} {1 + name.startswith('B')} 1 1\n" for name in names]
    (lists / "trainval.txt").write_text("".join(lines[:3]))
    (lists / "test.txt").write_text("".join(lines[3:]))


def _aircraft(root: Path, tree) -> None:
    data = tree(root / "fgvc-aircraft-2013b" / "data" / "images", *(f"{i:07}.jpg" for i in range(5))).parent
    (data / "variants.txt").write_text("A300\n707 320\n")  # not in alphabetical order, as the original is not
    lines = ["0000000 A300\n", "0000001 707 320\n", "0000002 A300\n", "0000003 707 320\n", "0000004 A300\n"]
    (data / "images_variant_trainval.txt").write_text("".join(lines[:3]))
    (data / "images_variant_test.txt").write_text("".join(lines[3:]))


def _cars(root: Path, tree) -> None:
    base = root / "stanford_cars"
    tree(base / "cars_train", "1.jpg", "2.jpg", "3.jpg")
    tree(base / "cars_test", "1.jpg", "2.jpg")
    (base / "devkit").mkdir()

    def marks(*pairs: tuple[str, int]) -> dict[str, np.ndarray]:
        return {"annotations": np.array(list(pairs), dtype=[("fname", "O"), ("class", "O")])}

    savemat(base / "devkit" / "cars_train_annos.mat", marks(("1.jpg", 1), ("2.jpg", 2), ("3.jpg", 1)))
    savemat(base / "cars_test_annos_withlabels.mat", marks(("1.jpg", 2), ("2.jpg", 1)))
    names = np.array([["Volvo 240", "Audi TT"]], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})


def _cifar(root: Path) -> None:
    base = root / "cifar-100-python"
    base.mkdir()
    for name, rows, labels in (("train", PICTURES[:3], [1, 0, 1]), ("test", PICTURES[3:], [0, 1])):
        (base / name).write_bytes(pickle.dumps({"data": rows, "fine_labels": labels}))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": ["whale", "apple"]}))


def _inat(root: Path, tree) -> None:
    tree(root / "2018", "Aves/0/a.jpg", "Aves/0/b.jpg", "Fungi/1/c.jpg", "Fungi/1/d.jpg", "Aves/0/e.jpg")
    held_out = [{"file_name": f"train_val2018/{name}"} for name in ("Fungi/1/d.jpg", "Aves/0/e.jpg")]
    (root / "val2018.json").write_text(json.dumps({"images": held_out}))


def _rows(index: Index) -> list[tuple[str, str, str]]:
    return [
        (index.path(i), index.classes[index.labels[i]], SPLITS[index.splits[i]])  # type: ignore[index]
        for i in range(len(index))
    ]


EXPECTED = {
    "flowers102": [
        ("flowers-102/jpg/image_00001.jpg", "pink primrose", "train"),
        ("flowers-102/jpg/image_00002.jpg", "hard-leaved pocket orchid", "train"),
        ("flowers-102/jpg/image_00003.jpg", "blackberry lily", "train"),  # the val part trains, as in the paper
        ("flowers-102/jpg/image_00004.jpg", "pink primrose", "test"),
        ("flowers-102/jpg/image_00005.jpg", "hard-leaved pocket orchid", "test"),
        ("flowers-102/jpg/image_00006.jpg", "pink primrose", "train"),
    ],
    "pets": [
        ("oxford-iiit-pet/images/Abyssinian_1.jpg", "Abyssinian", "train"),
        ("oxford-iiit-pet/images/Abyssinian_4.jpg", "Abyssinian", "test"),
        ("oxford-iiit-pet/images/Bengal_2.jpg", "Bengal", "train"),
        ("oxford-iiit-pet/images/Bengal_3.jpg", "Bengal", "train"),
        ("oxford-iiit-pet/images/Bengal_5.jpg", "Bengal", "test"),
    ],
    "aircraft": [
        ("fgvc-aircraft-2013b/data/images/0000000.jpg", "A300", "train"),
        ("fgvc-aircraft-2013b/data/images/0000001.jpg", "707 320", "train"),
        ("fgvc-aircraft-2013b/data/images/0000002.jpg", "A300", "train"),
        ("fgvc-aircraft-2013b/data/images/0000003.jpg", "707 320", "test"),
        ("fgvc-aircraft-2013b/data/images/0000004.jpg", "A300", "test"),
    ],
    "cars": [
        ("stanford_cars/cars_test/1.jpg", "Audi TT", "test"),
        ("stanford_cars/cars_test/2.jpg", "Volvo 240", "test"),
        ("stanford_cars/cars_train/1.jpg", "Volvo 240", "train"),
        ("stanford_cars/cars_train/2.jpg", "Audi TT", "train"),
        ("stanford_cars/cars_train/3.jpg", "Volvo 240", "train"),
    ],
    "cifar100": [
        ("test/00000.png", "whale", "test"),
        ("test/00001.png", "apple", "test"),
        ("train/00000.png", "apple", "train"),
        ("train/00001.png", "whale", "train"),
        ("train/00002.png", "apple", "train"),
    ],
    "inat18": [
        ("2018/Aves/0/a.jpg", "Aves/0", "train"),
        ("2018/Aves/0/b.jpg", "Aves/0", "train"),
        ("2018/Aves/0/e.jpg", "Aves/0", "val"),
        ("2018/Fungi/1/c.jpg", "Fungi/1", "train"),
        ("2018/Fungi/1/d.jpg", "Fungi/1", "val"),
    ],
}


@pytest.mark.parametrize("name", TITLES)
def test_paths_labels_and_splits_are_those_of_the_lists(root: Path, name: str) -> None:
    index = open_index(f"torchvision:{name}@{root}")
    assert _rows(index) == EXPECTED[name]
    assert index.name == TITLES[name]
    for i in range(len(index)):
        assert index.read(i), "the bytes of each image are there"


@pytest.mark.parametrize("name", TITLES)
def test_the_fingerprint_does_not_know_where_the_root_is(root: Path, tmp_path: Path, name: str) -> None:
    before = open_index(f"torchvision:{name}@{root}").fingerprint
    moved = root.rename(tmp_path / "elsewhere")
    assert open_index(f"torchvision:{name}@{moved}").fingerprint == before


def test_cifar_keeps_every_pixel_and_is_unpacked_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(f"torchvision:cifar100@{root}")
    place = [index.path(i) for i in range(5)].index("train/00002.png")
    assert np.array_equal(decode(index.read(place), path="").numpy(), PICTURES[2].reshape(3, 32, 32))
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", None)  # a second look must not ask it
    assert open_index(f"torchvision:cifar100@{root}").fingerprint == index.fingerprint


@pytest.mark.parametrize("name", TITLES)
def test_what_is_not_there_is_said_and_nothing_is_fetched_or_made(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("a download that nobody asked for")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    root = tmp_path / "empty"
    root.mkdir()
    with pytest.raises(DataError, match=f"{TITLES[name]} is not whole"):
        open_index(f"torchvision:{name}@{root}")
    assert not any(root.iterdir())


def test_download_is_torchvisions(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: asked for, it is passed on."""
    asked = []
    monkeypatch.setattr(
        torchvision.datasets.OxfordIIITPet, "_download", lambda self: asked.append(str(self._base_folder))
    )
    open_public(PublicData("pets", root), cache=tmp_path / "cache")
    assert asked == []
    open_public(PublicData("pets", root), cache=tmp_path / "cache", download=True)
    assert asked == [str(root / "oxford-iiit-pet")] * 2


def test_a_lost_image_is_named(root: Path) -> None:
    (root / "oxford-iiit-pet" / "images" / "Bengal_3.jpg").unlink()
    with pytest.raises(DataError, match="Bengal_3"):
        open_index(f"torchvision:pets@{root}")
