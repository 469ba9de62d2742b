"""The page in a real browser: what it says, what it must never do, and that everybody can read it."""

import html
import os
import re
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path

import pytest

from vitlet.disk import read_json, write_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.evaluation.compare import Arm, Protocol, comparison
from vitlet.reports import elements
from vitlet.reports.page import write_page
from vitlet.run import Run
from vitlet.text import printable

HOSTILE = [
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>", "<svg onload=alert(1)>", "<svg><script>alert(1)</script></svg>",
    "\"><img src=x onerror=alert(1)>", "'><img src=x onerror=alert(1)>", "\" onmouseover=\"alert(1)",
    "' onfocus='alert(1)' autofocus='", "\" autofocus onfocus=alert(1) x=\"", "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>", "javascript:alert(1)", "data:text/html,<script>alert(1)//",
    "<a href=javascript:alert(1) autofocus>x</a>", "<details open ontoggle=alert(1)>", "<body onload=alert(1)>",
    "<meta http-equiv=refresh content='0;url=http://v.test/'>", "<link rel=stylesheet href=http://v.test/a.css>",
    "<base href=http://v.test/>", "<object data=http://v.test/o>", "<embed src=http://v.test/e>",
    "<video src=http://v.test/v autoplay>", "<audio src=http://v.test/a onerror=alert(1)>",
    "<form action=http://v.test/ id=f><input autofocus onfocus=f.submit()>", "<style>*{display:none}</style>",
    "<style>@import 'http://v.test/i.css'</style>", "<img src=http://v.test/pixel.png>",
    "<img srcset='http://v.test/1.png 1x'>", "<math><mtext><img src=x onerror=alert(1)></mtext></math>",
    "<!--><script>alert(1)</script>-->", "]]><script>alert(1)</script>", "<![CDATA[<script>alert(1)</script>]]>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>", "<template><script>alert(1)</script>",
    "{{ 7 * 7 }}", "{% raw %}{{ x }}", "${alert(1)}", "#{7*7}", "&lt;script&gt;alert(1)&lt;/script&gt;", "&#60;",
    "url(http://v.test/u)", "}; body{background:url(http://v.test/b)}", "=cmd|' /C calc'!A0", "--help", " lead",
    "$\\frac{1}{0}$", "new\nline", "tab\there", "\x1b[31mred\x1b[0m", "\u202egnp.exe", "zero\u200bwidth", "é",
    "cafe\u0301", "日本語", "🙂", os.fsdecode(b"latin-\xff.png"), "percent%s%n", "back\\slash", "a" * 240,
]  # fmt: skip


@contextmanager
def opened(chromium, path: Path, *, width: int = 1200, scheme: str = "light"):
    """The page, with every dialog, request beyond the file itself, and console error noted in `seen`."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view, seen = context.new_page(), []
    view.on("dialog", lambda dialog: (seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
    view.on("request", lambda request: seen.append(f"request {request.url}"))
    view.on("pageerror", lambda error: seen.append(f"error {error}"))
    view.on("console", lambda message: seen.append(f"console {message.text}"))
    view.goto(path.as_uri())
    view.wait_for_timeout(200)
    view.seen = [e for e in seen if e != f"request {path.as_uri()}" and not e.startswith("request data:")]
    yield view
    context.close()


def texts(view, selector: str) -> list[str]:
    return view.eval_on_selector_all(selector, "all => all.map(e => e.textContent)")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def demo_page(demo, demo_maker, comparison_maker) -> Path:
    """The whole page, written once for this file."""
    if not (demo / "report.html").exists():
        write_page(demo_maker(demo / "runs"), out=demo / "report.html", comparison=comparison_maker())
    return demo / "report.html"


def hostile_comparison() -> dict:
    arms = [Arm(n, n, (0.5, 0.6), (0, 1), (1.0, 1.0)) for n in HOSTILE[:2]]
    made = comparison(
        HOSTILE[2],
        data={"name": HOSTILE[3], "fingerprint": HOSTILE[4], "num_train": 1, "num_labelled": 1, "num_test": 1,
              "classes": HOSTILE},
        protocols=[Protocol("x", HOSTILE[5], (arms[0], arms[1]), n=10, split=HOSTILE[6], metric=HOSTILE[7])],
        commands=HOSTILE,
    )  # fmt: skip
    made["verdict"] = {"answer": HOSTILE[8], "sentence": HOSTILE[9]}
    return made


def test_hostile_names_are_shown_and_do_nothing(tmp_path, run_maker, chromium):
    assert len(HOSTILE) >= 50
    names = [name for name in HOSTILE if "/" not in name]
    runs = [run_maker(tmp_path / name, full=name in names[:2]) for name in names]
    bad = [[name, f"because {name}"] for name in HOSTILE[:50]]
    check = read_json(runs[0].path / "data_check.json") | {"bad": bad, "modes": dict.fromkeys(HOSTILE[:50], 1)}
    write_json(runs[0].path / "data_check.json", check | {"name": HOSTILE[0], "notes": HOSTILE[:2]})
    write_json(runs[0].analysis / "reconstructions.json", {"caption": HOSTILE[0], "statistics": HOSTILE[1]})
    write_json(runs[0].results / "x.json", {"metric": HOSTILE[0], "value": 1.0, "protocol": HOSTILE[1]})
    recipe = runs[2].recipe_json() | {
        "name": HOSTILE[1],
        HOSTILE[0]: HOSTILE[2],
        "objective": {"method": HOSTILE[3]},
    }
    write_json(runs[2].recipe_file, recipe)

    for given in (hostile_comparison(), None):
        path = write_page(runs, out=tmp_path / "report.html", comparison=given)
        with opened(chromium, path) as view:
            assert view.seen == []
            assert view.locator("script, iframe, object, embed, form, base, video, audio").count() == 0
            rows = ".runs tbody th"
            assert texts(view, rows) == [printable(name) for name in names]
            assert texts(view, ".tables table:has(td:text('because')) tbody th") == [printable(n) for n in HOSTILE[:50]]
            if given:
                assert texts(view, ".names li") == [printable(name) for name in HOSTILE]
                assert texts(view, "pre code")[: len(HOSTILE)] == [printable(name) for name in HOSTILE]
                assert texts(view, ".question") == [HOSTILE[2]]
            assert view.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_browser_would_have_told(tmp_path, chromium):
    """The control: the same names, written without care, do run and do ask the network."""
    path = tmp_path / "careless.html"
    path.write_text("<!doctype html>" + "".join(f"<p>{name}</p>" for name in (HOSTILE[0], HOSTILE[28])))
    with opened(chromium, path) as view:
        assert "dialog 1" in view.seen
        assert "request http://v.test/pixel.png" in view.seen


@pytest.mark.parametrize("answer", ["yes", "no", "undecided"])
def test_every_answer_is_as_plain_as_the_others(tmp_path, run_maker, comparison_maker, chromium, answer):
    given = comparison_maker(answer)
    path = write_page([run_maker(tmp_path / "run", full=False)], out=tmp_path / "report.html", comparison=given)
    with opened(chromium, path) as view:
        head = view.locator("h1")
        assert given["verdict"]["sentence"] in head.text_content()
        assert head.text_content().casefold().startswith(answer)
        box, size = head.bounding_box(), head.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
        assert box["y"] < 300
        assert size >= 32
        change = given["protocols"][0]["difference"]
        assert f"{100 * abs(change['mean']):.1f}" in view.locator(".numbers").text_content()
        assert "1,000" in view.locator(".numbers").text_content()


def tuned(run: Run, value: float, *, start: str | None = None, labels: int = 200, **launch) -> Run:
    """The run as fine-tuning from the run `start` leaves it, `value` of 500 images right."""
    run.path.mkdir(parents=True, exist_ok=True)
    words = f"{labels:,} label" + "s" * (labels != 1)
    data, seed = {"name": "digits", "fingerprint": "aa"}, run.recipe_json()["budget"]["seed"]
    result = {"metric": "top1", "value": value, "n": 500, "seed": seed, "split": "test", "data": data}
    write_json(run.results / "top1.json", result | {"protocol": f"fine-tuning, {words}"})
    best = {"protocol": f"fine-tuning, {words}, best of 3 looks, chosen on the test split", "value": 0.99}
    write_json(run.results / "top1_best.json", result | best)
    found = {
        "verb": "finetune", "recipe": f"{labels} {seed}", "init": start, "num_labels": labels, "keep_blocks": None,
        "start": "random" if start is None else f"content of {start}",
    }  # fmt: skip
    write_json(run.path / "environment.json", {"launch": found | launch})
    return run


def head_of(page: Path) -> str:
    """The page's heading, without its tags."""
    heading = html.unescape(re.search(r"<h1>(.*?)</h1>", page.read_text())[1])
    return re.sub(r"<.*?>", "", heading).replace("\N{NO-BREAK SPACE}", " ")


class TestRunsFromDifferentStarts:
    @pytest.fixture
    def made(self, tmp_path, run_maker):
        """A run of fine-tuning by name, seed and score; the name is also that of the start, and scratch is none."""

        def make(name: str, value: float, seed: int = 0, **more) -> Run:
            place = tmp_path / f"{name}-{seed}-{more.get('labels', 200)}"
            run = run_maker(place, kind="supervised", seed=seed, full=False)
            return tuned(run, value, start=None if name == "scratch" else f"/elsewhere/runs/{name}", **more)

        return make

    def test_one_seed_decides_nothing_whoever_is_ahead(self, tmp_path, run_maker, made):
        runs = [run_maker(tmp_path / "mae"), made("mae", 0.205), made("scratch", 0.245)]
        assert head_of(write_page(runs, out=tmp_path / "page.html")) == (
            "Undecided. Fine-tuning with 200 labels reached 24.5 % from scratch (scratch-0-200) and 20.5 % from mae "
            "(mae-0-200) (+4.0 points, 1 seed, 500 test images); one seed decides nothing, run three or more."
        )

    def test_three_seeds_may_decide_for_either(self, tmp_path, made):
        for mae, scratch, said in (
            ((0.6, 0.61, 0.59), (0.5, 0.52, 0.5), "From mae. Fine-tuning with 200 labels reached 60.0 % from mae and"),
            ((0.5, 0.52, 0.5), (0.6, 0.61, 0.59), "From scratch. Fine-tuning with 200 labels reached 60.0 % from scr"),
            ((0.6, 0.4, 0.7), (0.5, 0.6, 0.5), "Undecided. Fine-tuning with 200 labels reached 56.7 % from mae and"),
        ):
            runs = [made("mae", v, s) for s, v in enumerate(mae)] + [
                made("scratch", v, s) for s, v in enumerate(scratch)
            ]
            said_here = head_of(write_page(runs, out=tmp_path / "page.html"))
            assert said_here.startswith(said)
            assert re.search(r" points, 95 % interval [+−][\d.]+ to \+[\d.]+, 3 seeds, 500 test images\)", said_here)
            assert ("the interval holds 0" in said_here) == said.startswith("Undecided")

    def test_of_three_starts_the_first_two_are_compared(self, tmp_path, made):
        runs = [made("mae", 0.2), made("scratch", 0.3), made("dino", 0.25), made("dino", 0.9, seed=1)]
        said = head_of(write_page(runs, out=tmp_path / "page.html"))
        assert "30.0 % from scratch (scratch-0-200), 25.0 % from dino (dino-0-200) and 20.0 % from mae (mae-0" in said
        assert "(+5.0 points between the first two, 1 seed, 500 test images)" in said, "seed 1 of dino is alone"

    def test_every_number_of_labels_has_its_sentence(self, tmp_path, made):
        runs = [made(name, v, labels=n) for n, v in ((200, 0.2), (1000, 0.4)) for name in ("mae", "scratch")]
        said = head_of(write_page(runs, out=tmp_path / "page.html"))
        assert said.count("Undecided.") == 2
        assert "with 200 labels reached 20.0 %" in said
        assert "with 1,000 labels reached 40.0 %" in said

    def test_what_is_kept_of_a_start_is_told_and_of_which(self, tmp_path, made):
        runs = [made("mae", 0.3), made("few", 0.2), made("none", 0.1), made("other", 0.0)]
        for run, kept, source in zip(runs[1:], (2, 0, None), ("runs/mae", "runs/mae", "first/mae"), strict=True):
            launch = read_json(run.path / "environment.json")["launch"]
            launch |= {"init": f"/elsewhere/{source}", "keep_blocks": kept}
            write_json(run.path / "environment.json", {"launch": launch})
        said = head_of(write_page(runs[:3], out=tmp_path / "page.html"))
        assert "30.0 % from mae (mae-0-200), 20.0 % from 2 blocks of mae (few-0-200) and 10.0 % from mae before" in said
        said = head_of(write_page(runs[::3], out=tmp_path / "page.html"))
        assert "30.0 % from runs/mae (mae-0-200) and 0.0 % from first/mae (" in said

    @pytest.mark.parametrize("other", [
        "seed", "labels", "subset", "hold_out", "recipe", "images", "asked", "start", "verb", "chosen",
    ])  # fmt: skip
    def test_what_differs_in_more_than_the_start_is_not_compared(self, tmp_path, made, other):
        first = made("mae", 0.2)
        second = made("scratch", 0.3, **{"seed": {"seed": 1}, "labels": {"labels": 100}}.get(other, {}))
        facts, recipe = second.path / "environment.json", second.recipe_json()
        launch, result = read_json(facts)["launch"], read_json(second.results / "top1.json")
        launch |= {
            "subset": {"subset": "0.5"}, "hold_out": {"hold_out": True}, "asked": {"recipe": "with other drop path"},
            "start": {"start": "content of /elsewhere/runs/mae"}, "verb": {"verb": "pretrain"},
        }.get(other, {})  # fmt: skip
        if other == "recipe":
            recipe["objective"]["smoothing"] = 0.2
        if other == "images":
            result["data"]["fingerprint"] = "bb"
        if other == "chosen":
            result["protocol"] += ", best of 3 looks, chosen on the test split"
        write_json(facts, {"launch": launch})
        write_json(second.recipe_file, recipe)
        write_json(second.results / "top1.json", result)
        said = head_of(write_page([first, second], out=tmp_path / "page.html"))
        assert said == f"{first.path.name} · {second.path.name}"


def test_a_page_is_asked_for_by_paths(tmp_path, run_maker):
    run = run_maker(tmp_path / "run")
    pages = [write_page([given], out=given_out) for given, given_out in (
        (run, tmp_path / "a.html"), (run.path, tmp_path / "b.html"), (str(run.path), str(tmp_path / "c.html")),
    )]  # fmt: skip
    assert len({page.read_bytes() for page in pages}) == 1
    with pytest.raises(UsageError, match="no run given"):
        write_page([], out=tmp_path / "page.html")
    with pytest.raises(CheckpointError, match="no run at"):
        write_page([tmp_path], out=tmp_path / "page.html")


def test_one_seed_has_no_interval_and_the_page_says_so(tmp_path, run_maker, comparison_maker, chromium):
    given = comparison_maker()
    del given["protocols"][0]
    path = write_page([run_maker(tmp_path / "run", full=False)], out=tmp_path / "report.html", comparison=given)
    with opened(chromium, path) as view:
        assert "none" in view.locator(".numbers").text_content()
        assert "there is no interval" in view.locator(".difference [role=img]").get_attribute("aria-label")


@pytest.mark.parametrize(
    "missing", ["environment.json", "metrics.jsonl", "results/knn.json", "analysis/reconstructions.npz",
                "analysis/reconstructions.json", "data_check.json", "everything"],
)  # fmt: skip
def test_a_missing_file_leaves_its_section_out_and_nothing_broken(tmp_path, run_maker, missing):
    run = run_maker(tmp_path / "run", full=missing != "everything")
    if missing != "everything":
        (run.path / missing).unlink()
    text = write_page([run], out=tmp_path / "report.html").read_text()

    ids = set(re.findall(r' id="([^"]+)"', text))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= ids
    assert set(re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', text)) <= ids
    gone = {
        "metrics.jsonl": {"losses", "health"}, "results/knn.json": {"accuracy"}, "data_check.json": {"data"},
        "analysis/reconstructions.npz": {"pictures"},
        "everything": {"losses", "health", "accuracy", "data", "pictures"},
    }.get(missing, set())  # fmt: skip
    assert {"accuracy", "losses", "pictures", "health", "data", "made"} - ids == gone
    assert not re.search(r"\bNone\b|\bnan\b|Undefined|<(?:ul|dl|h\d|p|tbody)(?: [^>]*)?>\s*</", text)


def test_equal_files_give_equal_bytes(tmp_path, demo_maker, comparison_maker):
    pages = [
        write_page(demo_maker(tmp_path / side), out=tmp_path / f"{side}.html", comparison=comparison_maker())
        for side in ("a", "b")
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_page_refers_to_nothing_outside_itself(demo_page):
    text = demo_page.read_text()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy in html.unescape(text)
    assert not re.search(r"https?:|@import|<script|\son[a-z]+=", text)
    for reference in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert reference.startswith(("#", "data:image/png;base64,", "data:,"))
    assert len(text) < 600_000


def test_it_fits_the_screen(demo_page, chromium):
    with opened(chromium, demo_page) as view:
        for width, scheme in product((320, 390, 768, 1200), ("light", "dark")):
            view.set_viewport_size({"width": width, "height": 900})
            view.emulate_media(color_scheme=scheme)
            on = f"{scheme}, {width} pixels"
            fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert view.evaluate(fits), on
            sizes = view.eval_on_selector_all(
                "svg text",
                "all => all.filter(e => e.getClientRects().length)"
                ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)",
            )
            assert min(sizes) >= 9.5, f"figures are legible without zooming: {on}"
            background = view.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background))) > 382) == (scheme == "light"), on


def test_figures_follow_the_theme(demo_page, chromium):
    def colours(scheme: str) -> set[str]:
        with opened(chromium, demo_page, scheme=scheme) as view:
            return set(
                view.eval_on_selector_all(
                    "svg text, svg path",
                    "all => all.map(e => getComputedStyle(e).fill + getComputedStyle(e).stroke)",
                )
            )

    assert colours("light") & colours("dark") <= {"nonenone", "rgb(0, 0, 0)none"}


def test_headings_landmarks_and_alternatives(demo_page, chromium):
    with opened(chromium, demo_page) as view:
        levels = [int(tag[1]) for tag in view.eval_on_selector_all("h1,h2,h3,h4", "all => all.map(e => e.tagName)")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        for landmark in ("main", "header", "nav[aria-label]", "footer"):
            assert view.locator(landmark).count() == 1
        assert view.locator("section:not([aria-labelledby])").count() == 0
        assert view.locator("img:not([alt]), img[alt=''], [role=img]:not([aria-label])").count() == 0
        assert view.locator("table:not(:has(caption)), th:not([scope])").count() == 0
        ids = view.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
        assert len(ids) == len(set(ids))


def test_the_keyboard_reaches_everything(demo_page, chromium):
    with opened(chromium, demo_page) as view:
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.className") == "skip"
        assert view.locator(".skip").bounding_box()["y"] >= 0, "the link shows itself when it has the focus"
        view.keyboard.press("Enter")
        assert view.evaluate("document.activeElement.id") == "main"
        view.locator("summary").last.focus()
        view.keyboard.press("Enter")
        assert view.locator(".keys table").is_visible()


def test_print_is_light_and_shows_what_is_folded(demo_page, chromium):
    with opened(chromium, demo_page, width=690, scheme="dark") as view:
        assert not view.locator(".keys table").is_visible()
        view.emulate_media(media="print", color_scheme="dark")
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert view.locator(".keys table").bounding_box()["height"] > 100
        assert not view.locator("nav").is_visible()


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(theme):
    css = Path(elements.__file__).with_name("templates").joinpath("report.css").read_text()
    colours = {key: values[theme] for key in ("paper", "panel", "ink", "muted", "accent")
               if (values := re.findall(rf"--{key}: (#\w{{6}})", css))}  # fmt: skip

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for paper in ("paper", "panel"):
        for ink in ("ink", "muted", "accent"):
            low, high = sorted(luminance(colours[key]) for key in (paper, ink))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (paper, ink)
