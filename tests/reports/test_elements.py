"""What all pages consist of."""

from xml.etree import ElementTree

import pytest

from vitlet.reports import figures
from vitlet.reports.elements import Picture, Table, plot_key, standalone, template


def test_numbers_are_aligned_by_who_builds_the_table_and_not_by_how_they_look():
    table = Table("Top-1", ("data", "mae", "hash"), (("pets", "not here", "123456"),), numeric=(1,))
    html = template("macros.html.j2").module.table(table)
    assert '<th scope="col" class="number">mae</th><th scope="col">hash</th>' in html
    assert '<td class="number">not here</td><td>123456</td>' in html


def test_names_are_escaped_and_printable_in_every_element():
    macros = template("macros.html.j2").module
    name, escaped = "<b>\x1b</b>", "&lt;b&gt;\\x1b&lt;/b&gt;"
    for html in (
        macros.table(Table(name, (name,), ((name,),))),
        macros.picture_set([Picture(name, name, "data:,")]),
        macros.facts([(name, name)]),
    ):
        assert escaped in html
        assert name not in html


def test_the_key_shows_each_line_in_its_style():
    (first, one), (second, two) = plot_key([(0, "mae"), (3, "random")])
    assert (one, two) == ("mae", "random")
    assert "--series-1" in first
    assert "--series-4" in second


@pytest.mark.filterwarnings("error")
def test_a_drawing_alone_is_a_whole_file_with_colours_of_its_own():
    drawing = figures.difference(0.1, (0.05, 0.15), name="alone")
    text = standalone(drawing)
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "--series-1: #" in text
    assert "--series-1: #" not in drawing, "the control: on a page the colours are the page's"
