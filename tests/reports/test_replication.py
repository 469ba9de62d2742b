"""The page about a replication: three places for numbers, no script, no request, text from outside shown literally."""

import html
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from test_page import HOSTILE

from vitlet.disk import read_json
from vitlet.reports.claims import effect, headline
from vitlet.reports.replication import items_markdown, write_replication_page
from vitlet.text import printable

MACHINE = {"processor": "x", "cores": 2, "packages": {"torch": "2.10"}, "started": "2026-11-28T10:00:00Z"}


def claim(number: int, answer: str, **part) -> dict:
    shown = {"title": "MAE − scratch", "unit": "points", "margin": 0.0, "n_seeds": 3, "n": 5000, "mean": 0.05,
             "low": 0.01, "high": 0.09, "runs": ["mae-s0-0123"], "answer": answer} | part  # fmt: skip
    return {"number": number, "statement": f"statement {number}", "source": "Table 1", "answer": answer, "why": "",
            "parts": [shown], "beside": []}  # fmt: skip


def cell(published, measured, not_run) -> dict:
    return {"published": published, "measured": measured, "not_run": not_run, "note": ""}


def document(**changes) -> dict:
    known = {"printed": "78.0", "value": 78.0, "tag": "R", "note": "", "is_confirmed": True}
    recalled = {"printed": "73.7", "value": 73.7, "tag": "M?", "note": "", "is_confirmed": False}
    measured = {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.4, 0.5, 0.6], "seeds": [0, 1, 2], "n": 9,
                "is_difference": False, "split": "test", "protocol": "p", "runs": ["r"], "stand_in": "half",
                "origin": "mae (9 images seen)"}  # fmt: skip
    rows = [
        {"title": "MAE", "cells": [cell(known, measured, None), cell(recalled, None, "needs: rain")]},
        {"title": "MoCo", "cells": [cell(None, measured, None), None]},
    ]
    table = {"name": "figure-2", "title": "Blocks kept", "about": "About.", "columns": ["0", "12"],
             "rows": rows, "unit": "top-1, %", "axis": ""}  # fmt: skip
    cka = {"DeiT": [[1.0, 0.5], [0.5, 1.0]], "MAE": [[0.9, 0.5], [0.5, 0.3]]}
    figure = {"name": "figure-1", "title": "Similarity", "about": "About.", "drawing": "similarity",
              "expected": {"text": "High.", "tag": "T"}, "reference": "DeiT", "subjects": ["MAE"], "not_run": None,
              "measured": {"cka": cka, "seeds": [0], "images": 64, "runs": ["look"]}}  # fmt: skip
    return {
        "kind": "replication", "scale": "micro", "about": "small", "tags": {"R": "the repository"}, "seeds": [0, 1, 2],
        "items": [table, figure], "claims": [claim(1, "supported"), claim(2, "not supported")],
        "runs": [{"title": "mae", "seed": 0, "name": "mae-s0", "recipe": "ab", "cpu_seconds": 3.0, "processor": "chip",
                  "cores": 2, "torch": "2.10", "commit": "0abc", "finished": "2026-11-28T09:00:00Z"}], "failed": [],
        "waiting": ["a", "b", "c", "d"], "command": "vitlet reproduce all", "machine": MACHINE,
    } | changes  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    return parser.found


def cells(page: str) -> list[list[tuple[str, str, str]]]:
    """(head, class, text) of the cells of each row."""
    cell = re.compile(r'<td(?: class="([^"]*)")? data-head="([^"]*)" role="cell">([^<]*)</td>')
    rows = [cell.findall(row) for row in re.findall(r"<tr role.*?</tr>", page, re.DOTALL)]
    return [[(head, kind, text) for kind, head, text in row] for row in rows if row]


def test_published_measured_and_not_run_are_three_columns(tmp_path: Path):
    page = write_replication_page(document(), out=tmp_path / "page.html").read_text()
    (confirmed, *_), (recalled, none, absent, _), (unknown, *_) = cells(page)[-3:]
    assert confirmed == ("published", "", "78.0 [R]")
    assert recalled == ("published", "unconfirmed", "unconfirmed: 73.7 [M?]")
    assert (none, absent) == (("measured here", "", ""), ("not run", "absent", "needs: rain"))
    assert unknown == ("published", "unconfirmed", "unknown")
    assert "50.0\N{NO-BREAK SPACE}% (40.0 to 60.0\N{NO-BREAK SPACE}%, 3 seeds, 9 images)" in page
    assert page.count("here: half; mae (9 images seen)") == 2, "beside what was measured, and nowhere else"
    assert "1 of 2 claims supported, 1 not supported" in page


def test_the_number_of_test_images_is_told_without_an_interval_too(tmp_path: Path):
    made = document()
    one_seed = {"low": None, "high": None, "values": [0.5], "seeds": [0], "n": 5000}
    made["items"][0]["rows"][0]["cells"][0]["measured"] |= one_seed
    words = "50.0\N{NO-BREAK SPACE}% (1 seed, 5,000 images, no interval)"
    assert words in write_replication_page(made, out=tmp_path / "page.html").read_text()
    assert words in items_markdown(made, page="page.html")


def partly_measured() -> dict:
    """A document with a table of which one row was measured, and one of which nothing was."""
    made = document()
    table, figure = made["items"]
    known = table["rows"][0]["cells"][0]["published"]
    absent = [
        {"title": title, "cells": [cell(known | {"printed": printed}, None, "needs: snow"), None]}
        for title, printed in (("DINO", "11.1"), ("SimMIM", "22.2"))
    ]
    first = table | {"rows": [absent[0], table["rows"][0]]}
    second = table | {"name": "table-2", "rows": absent}
    return made | {"items": [first, second, figure]}


def section(page: str, name: str) -> str:
    return re.findall(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]


def published(page: str) -> list[str]:
    return [row[0][2] for row in cells(page)]


def test_a_difference_is_in_points_with_its_sign(tmp_path: Path):
    made = document()
    first = made["items"][0]["rows"][0]["cells"][0]
    first["measured"] |= {"mean": -0.02, "low": -0.05, "high": 0.01, "is_difference": True}
    page = write_replication_page(made, out=tmp_path / "page.html").read_text()
    assert "−2.0 points (−5.0 to +1.0, 3 seeds, 9 images)" in html.unescape(page)
    first["measured"] |= {"low": None, "high": None}
    page = write_replication_page(made, out=tmp_path / "page.html").read_text()
    assert "−2.0 points (3 seeds, 9 images, no interval)" in html.unescape(page)


def test_failed_runs_are_named_with_the_reason(tmp_path: Path):
    failed = [{"title": "mae", "seed": 0, "name": "mae-s0-12", "why": "diverged: <b>mae</b>"}]
    page = write_replication_page(document(failed=failed), out=tmp_path / "page.html").read_text()
    assert "<code>mae-s0-12</code> (diverged: &lt;b&gt;mae&lt;/b&gt;)" in page


def test_rows_of_which_nothing_is_measured_stand_in_one_closed_fold_below_the_others(tmp_path: Path):
    page = write_replication_page(partly_measured(), out=tmp_path / "page.html").read_text()
    shown, folded = section(page, "figure-2").split("<details>")
    assert published(shown) == ["78.0 [R]", "unconfirmed: 73.7 [M?]"]
    assert published(folded) == ["11.1 [R]"]
    assert "<summary>1 row not measured here, with what was published</summary>" in folded
    shown, folded = section(page, "table-2").split("<details>")
    assert "<table" not in shown
    assert published(folded) == ["11.1 [R]", "22.2 [R]"]
    assert "<summary>2 rows not measured here, with what was published</summary>" in folded
    assert "<details" not in section(page, "figure-1")
    assert "<details" not in section(
        write_replication_page(document(), out=tmp_path / "all.html").read_text(), "figure-2"
    )


def test_paper_shows_what_the_screen_folds(tmp_path: Path, chromium):
    path = write_replication_page(partly_measured(), out=tmp_path / "page.html")
    view = chromium.new_page(viewport={"width": 700, "height": 900})
    view.goto(path.as_uri())
    seen = "([where, words]) => [...document.querySelectorAll(where)].find(e => e.innerText.includes(words))"
    height = f"(asked) => (({seen})(asked))?.getBoundingClientRect().height ?? 0"
    looked = [("#table-2 td", "22.2 [R]"), ("#made td", "mae-s0"), (".answers a", "statement 2"), (".up", "top")]
    on_screen = [view.evaluate(height, asked) > 0 for asked in looked]
    view.emulate_media(media="print")
    on_paper = [view.evaluate(height, asked) > 0 for asked in looked]
    view.close()
    assert on_screen == [False, False, True, True]
    assert on_paper == [True, True, True, False]


def test_the_claims_are_listed_with_their_answers_in_words_before_anything_else(tmp_path: Path):
    answers = ("supported", "not supported", "undecided", "not run")
    claims = [claim(number, answer) for number, answer in enumerate(answers, 1)]
    page = write_replication_page(document(claims=claims), out=tmp_path / "page.html").read_text()
    found = re.findall(r'<nav class="answers" aria-label="[^"]+">.*?</nav>', page, re.DOTALL)[0]
    assert page.index("</h1>") < page.index(found) < page.index("<section")
    links = re.findall(r'<li><a href="(#claim-\d)">(.*?)</a></li>', found)
    told = [(href, re.sub("<[^>]*>", "", words)) for href, words in links]
    assert told == [(f"#claim-{i}", f"{i} statement {i} {answer}") for i, answer in enumerate(answers, 1)]
    page = write_replication_page(document(claims=[]), out=tmp_path / "none.html").read_text()
    assert "answers" not in {a.get("class") for _, a in tags(page)}


def test_each_section_ends_with_a_way_back_for_the_keyboard(tmp_path: Path, chromium):
    path = write_replication_page(partly_measured(), out=tmp_path / "page.html")
    view = chromium.new_page(viewport={"width": 390, "height": 900})
    view.goto(path.as_uri())
    names = view.evaluate("[...document.querySelectorAll('section')].map(e => e.id)")
    assert names == ["claims", "figure-2", "table-2", "figure-1", "tags", "made"]
    for name in names:
        last = view.locator(f"#{name} a, #{name} summary, #{name} [tabindex]").last
        last.focus()
        assert view.evaluate("document.activeElement.textContent") == "Back to the top"
        view.keyboard.press("Enter")
        assert view.evaluate("document.activeElement.id") == "main"
        assert view.evaluate("scrollY") < 200
    view.close()


def test_what_is_said_of_the_rules_and_of_finished_runs_holds(tmp_path: Path):
    page = write_replication_page(document(), out=tmp_path / "page.html").read_text().replace("&nbsp;", " ")
    changed = (
        "Claims, parts and margins were written before the runs; what changed since, and why, stands in decision 0006."
    )
    assert changed in section(page, "claims")
    assert "takes over the finished runs where their folder is still there" in section(page, "made")
    assert "makes them anew where it is not." in section(page, "made")


def test_a_published_figure_is_shown_with_every_digit_that_was_printed(tmp_path: Path):
    made = document()
    for printed in ("13275.72", "11388.57", "57.170", "4020", "+9.4"):
        made["items"][0]["rows"][0]["cells"][0]["published"] |= {"printed": printed, "value": float(printed)}
        assert f">{printed} [R]<" in write_replication_page(made, out=tmp_path / "page.html").read_text()
        assert f"| {printed} [R] |" in items_markdown(made, page="page.html")


def test_the_page_holds_no_script_and_its_policy_forbids_one(tmp_path: Path):
    found = tags(write_replication_page(document(), out=tmp_path / "page.html").read_text())
    policy = next(a["content"] for t, a in found if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script" not in {t for t, _ in found}
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids)), "the links of the navigation lead to one place each"
    links = {a["href"] for t, a in found if t == "a"}
    assert {link for link in links if link and not link.startswith("#")} == set()
    assert {link.removeprefix("#") for link in links if link} <= set(ids)


def test_hostile_text_is_shown_and_never_becomes_markup(tmp_path: Path):
    assert len(HOSTILE) >= 50
    plain = tags(write_replication_page(document(items=[]), out=tmp_path / "plain.html").read_text())
    for text in HOSTILE:
        run = document()["runs"][0] | dict.fromkeys(("title", "name", "recipe", "processor", "torch", "commit"), text)
        first, second = document()["claims"]
        made = document(
            items=[], command=text, runs=[run], claims=[first | {"statement": text}, second | {"why": text}]
        )
        page = write_replication_page(made, out=tmp_path / "page.html").read_text()
        assert [t for t, _ in tags(page)] == [t for t, _ in plain], text
        assert html.escape(printable(text), quote=False).replace("&", "") in html.escape(
            html.unescape(page), quote=False
        ).replace("&", ""), text


WIDE = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_no_number_has_to_be_scrolled_to(tmp_path: Path, chromium, scheme: str):
    path = write_replication_page(document(), out=tmp_path / "page.html")
    view = chromium.new_page(viewport={"width": 390, "height": 900}, color_scheme=scheme)
    view.goto(path.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    assert not any(view.evaluate(WIDE)[:-1]), "the last is the list of runs, behind a fold"
    cell = view.locator("td", has_text="unconfirmed: 73.7")
    assert cell.evaluate("e => getComputedStyle(e, '::before').content") == '"published: "'
    view.evaluate("document.querySelectorAll('.cards').forEach(e => e.classList.remove('cards'))")
    assert any(view.evaluate(WIDE)[:-1]), "as a table it would be wider than the screen"
    view.close()


@pytest.mark.parametrize(
    ("name", "label"), [("table-1", "Table 1"), ("figure-7", "Figure 7"), ("appendix-a1", "Appendix A.1")]
)
def test_tables_are_called_as_in_the_paper(name: str, label: str, tmp_path: Path):
    item = document()["items"][0] | {"name": name}
    page = write_replication_page(document(items=[item]), out=tmp_path / "page.html").read_text()
    assert f'<h2 id="{name}-title">{label}</h2>' in page


def test_an_effect_has_its_unit_interval_and_margin():
    part = {"unit": "points", "mean": 0.051, "low": -0.01, "high": 0.11, "margin": 0.0}
    assert effect(part) == ("+5.1 points", "−1.0 to +11.0")
    cka = {"unit": "CKA", "mean": 0.2, "low": 0.1, "high": 0.3, "margin": 0.1}
    assert effect(cka) == ("+0.200 CKA", "+0.100 to +0.300, margin 0.1")
    assert effect(part | {"low": None, "high": None})[1] == "none, one seed"
    assert effect(part | {"mean": None}) == ("not run", "")


def test_the_headline_counts_every_answer():
    claims = [claim(1, "supported"), claim(2, "supported"), claim(3, "undecided")]
    assert headline(claims) == "2 of 3 claims supported, 1 undecided"
    assert headline([]) == ""


def test_the_same_in_markdown() -> None:
    text = items_markdown(document(), page="page.html").replace("\N{NO-BREAK SPACE}", " ")
    assert "### Figure 2: Blocks kept (micro)" in text
    assert (
        "| MAE: 0 | 78.0 [R] | 50.0 % (40.0 to 60.0 %, 3 seeds, 9 images) |  | here: half; mae (9 images seen) |"
        in text
    )
    assert "| MAE: 12 | unconfirmed: 73.7 [M?] |  | needs: rain |  |" in text
    assert (
        "| MoCo: 0 | unknown | 50.0 % (40.0 to 60.0 %, 3 seeds, 9 images) |  | here: half; mae (9 images seen) |"
        in text
    )
    assert "[Drawings](page.html#figure-1):" in text
    assert "MAE: from 0.90 to 0.30" in text
    assert "* [R] the repository" in text


def test_markdown_shows_text_from_outside_literally() -> None:
    changed = document()
    changed["items"][0]["rows"][0]["cells"][0]["measured"]["stand_in"] = "<b>a|b"
    text = items_markdown(changed, page="page.html")
    assert "here: &lt;b>a&#124;b; mae (9 images seen) |" in text


LEDGER = Path(__file__).parents[2] / "docs/results"


@pytest.mark.parametrize("file", sorted(LEDGER.glob("replication-*.json")), ids=lambda path: path.stem)
def test_the_page_in_the_ledger_is_of_its_document(file: Path, tmp_path: Path) -> None:
    made = write_replication_page(read_json(file), out=tmp_path / "page.html").read_text()
    kept = file.with_suffix(".html").read_text()
    words = [re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL) for text in (made, kept)]
    assert words[0] == words[1], f"vitlet report {file} --out {file.with_suffix('.html')}"


def test_what_stands_beside_a_claim_is_shown_apart(tmp_path: Path) -> None:
    with_control = claim(15, "supported")
    with_control["beside"] = [with_control["parts"][0] | {"title": "the same of random weights", "runs": ["look-s0"]}]
    text = write_replication_page(document(claims=[with_control]), out=tmp_path / "page.html").read_text()
    assert text.index("MAE − scratch") < text.index("without a say in the answer") < text.index("random weights")
    assert "Runs behind it (2)" in text


def test_the_machine_is_the_one_that_made_the_runs(tmp_path: Path) -> None:
    text = write_replication_page(document(), out=tmp_path / "page.html").read_text()
    assert "chip, 2 cores" in text
    assert "torch 2.10, commit 0abc" in text
