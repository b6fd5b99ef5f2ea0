"""`rl-exp report figures` and `html`: one folder, one page, nothing fetched, whatever lies in outputs/."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from report_cases import made_run

import experiments.report
from conf.claim_config import load_claims
from experiments.reports.figure_gallery import gather_figures
from experiments.reports.html_page import picture

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class PageParser(HTMLParser):
    """What a page would fetch, what its pictures say, and whether its tags are balanced."""

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.alts: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "link", "iframe", "object"):
            self.fetched.append(tag)
        for name in ("src", "href", "srcset", "data"):
            value = found.get(name)
            if value and value.startswith("#"):
                self.anchors.append(value[1:])
            elif value and not value.startswith("data:image/png;base64,"):
                self.fetched.append(value)
        if tag == "img":
            self.alts.append(found.get("alt") or "")
        if "id" in found:
            self.ids.append(found["id"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(path: Path) -> PageParser:
    page = PageParser()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


@pytest.fixture
def page_of(rl_exp, tmp_path):
    def write(*words: str) -> Path:
        result = rl_exp("report", "html", *words)
        assert result.exit_code == 0, result.output
        path = Path(result.stdout.strip())
        assert path.is_file()
        return path

    return write


def planted_figure(run: Path, name: str = "curve") -> Path:
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    (run / "figures").mkdir(exist_ok=True)
    figure, axis = plt.subplots(figsize=(2, 1))
    axis.plot([0, 1])
    for suffix in ("png", "svg"):
        figure.savefig(run / "figures" / f"{name}.{suffix}")
    plt.close(figure)
    return run / "figures" / f"{name}.png"


def test_the_page_holds_everything_and_fetches_nothing(page_of, tmp_path):
    run = made_run(
        tmp_path / "outputs", "mine", settings={"reward.name": "<b>&evil"}, summary={"eval/text/perplexity": 61.7}
    )
    planted_figure(run)
    path = page_of()
    page = parsed(path)
    assert page.fetched == []
    assert page.alts
    assert all(page.alts), "every picture says what it shows"
    assert set(page.anchors) <= set(page.ids)
    text = path.read_text(encoding="utf-8")
    assert "<b>&evil" not in text, "what users write is text, not markup"
    assert "&lt;b&gt;&amp;evil" in text
    assert text.count('<article class="claim"') == len(load_claims())
    assert "mine" in text
    assert not re.search(r"https?://", text)


def test_the_newest_sweeps_have_a_table_of_arms_with_intervals_and_damaged_ones_none(page_of, tmp_path):
    outputs = tmp_path / "outputs"
    for mechanism, level in (("gqa", 60.0), ("gta", 62.0)):
        for seed in (0, 1, 2):
            made_run(
                outputs, f"{mechanism}{seed}", seed=seed, settings={"attention.mechanism": mechanism},
                summary={"eval/text/perplexity": level + seed, "other": 1.0},
            )  # fmt: skip
    for name, jobs in (("train-good", ["gqa0", "gqa1", "gqa2", "gta0", "gta1", "gta2", "absent"]), ("train-bad", None)):
        sweep = outputs / "sweeps" / name
        sweep.mkdir(parents=True)
        record = {"command": "train", "experiment": "train", "jobs": jobs and [{"run_id": run_id} for run_id in jobs]}
        (sweep / "sweep.json").write_text(json.dumps(record))
    text = page_of().read_text(encoding="utf-8")
    section = text[text.index('id="sweeps"') : text.index('id="runs"')]
    assert "train-good" in section
    assert "train-bad" not in section
    assert "63 [60.52, 65.48], n = 3" in section
    assert "left out: absent" in section


def test_an_empty_outputs_folder_makes_a_page_of_what_is_published(page_of):
    assert "No local runs yet" in page_of().read_text(encoding="utf-8")


def test_with_nothing_at_all_all_claims_are_without_evidence(page_of, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.report, "PUBLISHED", tmp_path / "nothing")
    text = page_of().read_text(encoding="utf-8")
    assert f"{len(load_claims())} of {len(load_claims())}" in text
    parsed(tmp_path / "outputs" / "report" / "report.html")


def test_damaged_runs_figures_and_captions_end_nothing(page_of, rl_exp, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.report, "PUBLISHED", tmp_path / "nothing")
    output_dir = tmp_path / "outputs"
    for number, (name, content) in enumerate(
        [("status.json", b""), ("summary.json", b"{"), ("manifest.json", b"[]"), ("config.yaml", b"a: [")]
    ):
        run = made_run(output_dir, f"run{number}", summary={"x": 1})
        (run / name).write_bytes(content)
        planted_figure(run).write_bytes(b"no picture" if number else b"")
        (run / "figures" / "captions.json").write_text("[" if number else '{"curve": "a line"}')
    (output_dir / "sweeps" / "odd" / "figures").mkdir(parents=True)
    parsed(page_of())
    assert rl_exp("report", "figures").exit_code == 0


def test_a_picture_that_is_none_is_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    assert picture(tmp_path / "a.png") is None
    assert picture(tmp_path / "absent.png") is None


def test_figures_are_gathered_as_png_and_svg_with_captions(rl_exp, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.report, "PUBLISHED", tmp_path / "nothing")
    planted_figure(made_run(tmp_path / "outputs", "mine"))
    result = rl_exp("report", "figures", "--json")
    (figure,) = json.loads(result.stdout)
    assert Path(figure["png"]).is_file()
    assert Path(figure["svg"]).is_file()
    assert figure["caption"]


def test_perplexity_is_drawn_again_from_its_numbers_and_not_copied(rl_exp, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.report, "PUBLISHED", tmp_path / "nothing")
    place = tmp_path / "outputs" / "reference" / "train" / "mechanisms"
    place.mkdir(parents=True)
    old = planted_figure(place, "perplexity_against_cache")
    old.with_suffix(".svg").unlink()
    numbers = {"cache_bytes_per_token_per_layer": 144, "objective": 4.0, "eval/text/perplexity": 61.0}
    arms = [
        {
            "arm": name.upper(),
            "mechanism": name,
            "by_seed": {key: {"0": value * scale, "1": value * scale} for key, value in numbers.items()},
        }
        for name, scale in (("gta", 1.0), ("gqa", 2.0))
    ]
    (place / "comparison.json").write_text(json.dumps({"arms": arms}))
    (figure,) = json.loads(rl_exp("report", "figures", "--json").stdout)
    assert Path(figure["svg"]).is_file(), "the published result has PNG only"
    assert Path(figure["png"]).read_bytes() != old.read_bytes()


def test_an_interrupted_drawing_leaves_the_pictures_of_the_one_before(tmp_path, monkeypatch):
    place, folder = made_run(tmp_path / "outputs", "mine"), tmp_path / "figures"
    planted_figure(place, "first")
    gather_figures([place], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    planted_figure(place, "second")

    def stopped(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.reports.figure_gallery.shutil.copyfile", stopped)
    with pytest.raises(KeyboardInterrupt):
        gather_figures([place], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_page_that_cannot_be_written_is_one_line_and_code_2(rl_exp, tmp_path):
    (tmp_path / "file").write_text("")
    result = rl_exp("report", "html", "--page", "file/report.html")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_real_browser_shows_the_page_on_a_phone_without_side_scrolling_and_prints_it(page_of, tmp_path):
    run = made_run(tmp_path / "outputs", "mine", summary={"eval/text/perplexity": 61.7})
    planted_figure(run)
    path = page_of()
    # A copy that measures itself: the page has no scripts, and its policy would not let them run.
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    text = policy.sub("", path.read_text(encoding="utf-8"))
    measure = (
        "<script>onload = () => { const d = document.documentElement; document.title = [d.scrollWidth, d.clientWidth, "
        "[...document.images].filter(i => i.complete && i.naturalWidth).length, document.images.length].join(' '); }"
        "</script>"
    )
    measured = tmp_path / "measured.html"
    measured.write_text(text.replace("</body>", measure + "</body>"), encoding="utf-8")
    browser = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    shown = subprocess.run(
        [*browser, "--window-size=390,900", "--dump-dom", f"file://{measured}"],
        capture_output=True,
        timeout=120,
        check=True,
    ).stdout.decode("utf-8", errors="replace")
    width, client, loaded, pictures = map(int, re.search(r"<title>([\d ]+)</title>", shown)[1].split())
    assert client < 640, "narrower than where the layout of phones begins"
    assert width <= client, "the page scrolls sideways"
    assert loaded == pictures > 0
    paper = tmp_path / "page.pdf"
    subprocess.run(
        [*browser, f"--print-to-pdf={paper}", f"file://{path.resolve()}"], capture_output=True, timeout=120, check=True
    )
    assert paper.read_bytes().startswith(b"%PDF")
