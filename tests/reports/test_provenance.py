"""Where the numbers come from."""

import shutil

from vitlet.data.check import check
from vitlet.data.detection.annotations import annotations_of
from vitlet.data.index import open_index
from vitlet.disk import read_json, write_json
from vitlet.reports import provenance
from vitlet.reports.contents import read
from vitlet.reports.page import write_page


def test_runs_that_differ_in_the_seed_share_a_recipe(tmp_path, run_maker):
    runs = [run_maker(tmp_path / str(seed), kind="supervised", seed=seed, full=False) for seed in range(3)]
    recipes = provenance.made(read(runs), None).recipes
    assert recipes.columns == ("key", "finetune_micro (0 and 2 more runs)")
    assert not recipes.marked


def test_values_that_differ_are_marked(tmp_path, run_maker):
    runs = [run_maker(tmp_path / "a", full=False), run_maker(tmp_path / "b", kind="supervised", full=False)]
    recipes = provenance.made(read(runs), None).recipes
    marked = {recipes.rows[i][0] for i in recipes.marked}
    assert marked == {"name", "objective.method", "objective.mask_ratio", "objective.smoothing"}


def test_every_value_of_a_recipe_is_there(tmp_path, run_maker):
    rows = dict(provenance.made(read([run_maker(tmp_path / "a", full=False)]), None).recipes.rows)
    assert rows["optimizer.base_lr"] == "0.0015"
    assert rows["data.views.0.crop.padding"] == "4"


def test_commands_are_given_once_and_the_comparisons_first(tmp_path, run_maker):
    runs = read([run_maker(tmp_path / "x" / "run"), run_maker(tmp_path / "y" / "run")])
    commands = provenance.made(runs, {"commands": ["vitlet demo"]}).commands
    assert commands == ("vitlet demo", "vitlet pretrain mae_micro --data digits --out run")


def test_what_a_check_found(tmp_path, run_maker):
    (found,) = provenance.data(read([run_maker(tmp_path / "a"), run_maker(tmp_path / "b")]), None)
    assert found.title == "digits: a, b"
    assert dict(found.checked)["unusable"] == "2"
    assert dict(found.checked)["equal files"] == "1"
    tables = {table.caption: table for table in found.tables}
    assert tables["unusable images"].rows[0] == ("train/3/0017.png", "truncated")
    assert tables["unusable images"].columns == ("image", "reason")
    assert tables["images of each class"].columns == ("class", "train", "test")
    assert list(tables["images of each class"].numeric) == [1, 2]
    assert len(found.tables) == 4, "two runs on the same images were checked once"


def test_notes_about_the_folder_are_shown(tmp_path, run_maker):
    run, note = run_maker(tmp_path / "a"), "6 files look like images in formats vitlet does not read: 6 .heic"
    write_json(run.path / "data_check.json", read_json(run.path / "data_check.json") | {"notes": [note]})
    (found,) = provenance.data(read([run]), None)
    (table,) = [table for table in found.tables if table.caption == "how the data was read"]
    assert table.rows == ((note,),)
    assert note in write_page([run], out=tmp_path / "page.html").read_text()


def test_long_lists_are_cut_and_say_so(tmp_path, run_maker):
    run = run_maker(tmp_path / "a")
    recorded = read_json(run.path / "data_check.json")
    bad = [[f"{i}.png", "truncated"] for i in range(20)]
    copies = {"count": 9, "examples": [[f"{i}.png", "0.png"] for i in range(1, 8)]}
    more = {"num_bad": 2_000, "bad": bad, "modes": {f"PNG {i}": 80 - i for i in range(80)}, "leaks": copies}
    write_json(run.path / "data_check.json", recorded | more)
    (found,) = provenance.data(read([run]), None)
    tables = {table.caption: table for table in found.tables}
    for caption, shown, left_out in (
        ("unusable images", 20, 1_980), ("stored as", 50, 30), ("test images also trained on, examples", 5, 4),
    ):  # fmt: skip
        assert (len(tables[caption].rows), tables[caption].left_out) == (shown, left_out)


def test_what_a_check_records_is_what_the_page_shows(tmp_path, run_maker, annotated):
    """Every section of `Verdicts.to_json` and `Annotations.to_json` has its place, with titles of its own."""
    root = shutil.copytree(annotated, tmp_path / "set")
    (root / "train" / "2.png").write_bytes(b"no image")
    file = root / "annotations" / "instances_train.json"
    content = read_json(file)
    content["annotations"][1]["bbox"] = [5, 6, -3, 4]
    write_json(file, content)
    index, run = open_index(root), run_maker(tmp_path / "a")
    verdicts, annotations = check(index, workers=0), annotations_of(index)
    write_json(run.path / "data_check.json", verdicts.to_json() | {"annotations": annotations.to_json()})
    (found,) = provenance.data(read([run]), None)
    facts, tables = dict(found.checked), {table.caption: table for table in found.tables}
    assert (facts["images found"], facts["unusable"], facts["look alike"]) == ("9", "1", "0")
    assert (facts["annotations"], facts["annotations left out"]) == ("9", "1")
    assert tables["unusable images"].rows[0][0] == "train/2.png"
    assert tables["annotations of each class"].rows == (("red", "6"), ("green", "2"))
    ((fault, number, rule, example),) = tables["faults of annotations"].rows
    assert (fault, number, rule) == ("inverted box", "1", "the annotation is left out")
    assert "instances_train.json" in example


def test_without_a_check_or_a_comparison_there_is_no_data_section(tmp_path, run_maker):
    assert provenance.data(read([run_maker(tmp_path / "a", full=False)]), None) == ()


def test_each_data_set_has_its_own_facts(tmp_path, run_maker, comparison_maker):
    first, second = run_maker(tmp_path / "a"), run_maker(tmp_path / "b")
    recorded = read_json(second.path / "data_check.json")
    write_json(second.path / "data_check.json", recorded | {"name": "gauges", "num_bad": 7})
    about = comparison_maker()
    digits, gauges = provenance.data(read([first, second]), about)
    assert (digits.title, gauges.title) == ("digits: a", "gauges: b")
    assert (dict(digits.checked)["unusable"], dict(gauges.checked)["unusable"]) == ("2", "7")
    assert dict(digits.facts)["training images"] == "4,000"
    assert (gauges.facts, gauges.classes) == ((), ()), "the comparison is about digits"
    about["data"]["name"] = "others"
    others, *rest = provenance.data(read([first, second]), about)
    assert others.title == "others"
    assert others.facts
    assert not any(data.facts for data in rest)
    page = write_page([first, second], out=tmp_path / "page.html").read_text()
    assert "<h3>digits: a</h3>" in page
    assert "<h3>gauges: b</h3>" in page
    assert "<h3>digits: a</h3>" not in write_page([first], out=tmp_path / "one.html").read_text(), "the control"
