"""Reports: which files are read, what is shown of them, and pages without network, on a phone and in print."""

import contextlib
import itertools
import json
import re
import shutil

import pytest
from click.testing import CliRunner
from support import chromium
from support.damage import damaged_copies

from splitreg.bench.chart import COLOURS as CHART_COLOURS
from splitreg.cli.main import cli
from splitreg.errors import ReportError
from splitreg.report import make_report
from splitreg.report.page import BAR_COLOURS, COLOURS

EVALUATION = {
    "dataset": "toys val", "sent": "packet", "images": 8, "seconds": 1.0, "seed": 0, "hardware": "a CPU",
    "bytes": {"mean": 301.5, "p50": 300.0, "p95": 310.0, "largest": 312, "header": 20.0, "bits_per_pixel": 0.1,
              "bits_per_original_pixel": 0.1},
    "metrics": {"cls": {"top1": 0.75, "top5": None}}, "labelled": {"cls": 8}, "versions": {"torch": "2"},
    "per_class": {"cls": {"<b>cat</b>": {"recall": 0.5}}}, "date": "2026-01-01T00:00:00Z",
}  # fmt: skip


def point(label, size, score):
    return {
        "label": label, "bytes": size, "device": {"parameters": 10, "macs": 1000}, "metrics": {"cls": {"top1": score}},
        "intervals": {"cls": {"top1": {"low": score - 0.1, "high": score + 0.1, "values": []}}},
        "primary": {"cls": {"metric": "top1", "lower_is_better": False}}, "evaluation": EVALUATION,
    }  # fmt: skip


TIME = {"ms": 2.0, "low_ms": 1.0, "high_ms": 3.0, "cpu_ms": 2.0, "ratio": 1.0}
BENCH = {
    "dataset": "toys val", "images": 8, "anchor": "ours",
    "series": {"ours": [point("low", 200, 0.5), point("high", 900, 0.8)], "webp": [point("webp 5", 1500, 0.55)]},
    "comparisons": [{
        "head": "cls", "metric": "top1", "lower_is_better": False, "bd_rate": {"webp": 0.25}, "notes": {},
        "bytes_at_equal_accuracy": [
            {"value": 0.55, "of": "webp", "bytes": {"ours": 260.0, "webp": 1500.0}, "at_most": ["webp"]}],
    }],
    "speed": {
        "machine": {"hardware": "a CPU", "load_average": 0.0}, "threads": 1, "rounds": 3, "codecs": {},
        "bundles": {"ours": {
            "edge": {"prepare": TIME, "code": TIME, "runtimes": {"onnxruntime": {"network": TIME, "encode": TIME}}},
            "server": {"decode": TIME, "body": TIME, "heads": {"cls": TIME}, "infer": TIME}, "local": TIME,
            "throughput": {"1": 10.0, "8": 31.25},
            "processes": {"server": {"start_s": 1.5, "cpu_s": 1.25, "peak_bytes": 2**28}},
        }},
    },
}  # fmt: skip
COMPARE = {
    "passed": False,
    "changes": [
        {"what": "ours: cls top1", "relative": False, "before": 0.8, "after": 0.7, "worse": 0.1, "tolerance": 0.005,
         "low": None, "high": None, "regression": True},
        {"what": "ours: bytes", "relative": True, "before": 900, "after": 900, "worse": 0.0, "tolerance": 0.01,
         "low": None, "high": None, "regression": False},
    ],
}  # fmt: skip
SWEEP = {
    "points": {"rate=1": "rate=1"},
    "outcomes": [{"label": "rate=1", "folder": "rate=1", "bundle": True, "status": "done", "message": "", "warnings": [],
                  "validation": {"cls": {"top1": 0.5}}, "steps": 24, "seconds": 9.5}],
}  # fmt: skip
LOG = [
    {"event": "start", "stages": ["joint"], "seed": 0},
    *({"event": "epoch", "step": 10 * (n + 1), "stage": "joint", "epoch": n, "lr": 0.1, "seconds": 1.0,
       "train": {"loss": 3.0 - n}, "val": {"cls": {"top1": 0.25 * n}, "bits": 2400.0, "images": 8}} for n in range(3)),
    {"event": "warning", "step": 30, "message": "head 'cls' is at chance"},
]  # fmt: skip
DATA = {
    "splits": {"train": {"images": 9, "sizes": [[64, 64]], "unknown": {}, "counts": {"classification": {"cat": 6, "dog": 3}},
                         "unlabelled": {"classification": 1}}},
    "duplicates": [["train/a.png", "train/b.png"]], "warnings": ["only 9 images"],
}  # fmt: skip
UNKNOWN = {
    "plan": "split",
    "times": {"ms": 12.5},
    "candidates": [{"cut": "layer1", "ms": 3.0}, {"cut": "layer2", "ok": True}],
}
#: Result -> texts of its report.
RESULTS = {
    "bench": (BENCH, ["ours, high", "0.8000 (0.7000 to 0.9000)", "+25.0%", "≤ 1,500", "31.2", "256", "onnxruntime"]),
    "compare": (COMPARE, ["1 of 2 numbers", "+0.1000", "+0.0050", "ours: bytes"]),
    "eval": (EVALUATION, ["0.7500", "302", "cls: packet, per class", "a CPU"]),
    "evals": ([EVALUATION, {**EVALUATION, "sent": "webp 20"}], ["webp 20"]),
    "sweep": (SWEEP, ["rate=1", "cls top1 0.5000", "9.50"]),
    "data": (DATA, ["only 9 images", "cat", "train/b.png"]),
    "bundle": ({"training": [], "evaluations": [EVALUATION]}, ["0.7500"]),
    "unknown": (UNKNOWN, ["12.5000", "layer2", "yes"]),
    "rows": ([{"check": "round trip", "passed": True}], ["round trip", "yes"]),
}


@pytest.fixture
def files(tmp_path):
    paths = {name: tmp_path / f"{name}.json" for name in RESULTS}
    for name, path in paths.items():
        path.write_text(json.dumps(RESULTS[name][0]))
    paths["log"] = tmp_path / "log.jsonl"
    paths["log"].write_text("\n".join(map(json.dumps, LOG)))
    return paths


@pytest.mark.parametrize("name", RESULTS)
def test_each_result_is_shown_in_both_formats(files, name):
    document = make_report([files[name]])
    page, (text, _) = document.html(), document.markdown()
    for fact in RESULTS[name][1]:
        assert fact in page and fact in text
    assert "<b>cat</b>" not in page


def test_a_training_has_curves_and_its_warnings(files):
    document = make_report([files["log"]])
    text, charts = document.markdown("r")
    assert {"r-train-loss.svg", "r-val-cls-top1.svg", "r-val-bits.svg"} == set(charts)
    assert "3 epochs, 30 steps" in text and "at chance" in text and document.html().count("<svg") == 3


def test_a_folder_and_a_bundle_are_read_with_examples(files, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(files["bundle"], folder / "metrics.json")
    (folder / "examples.jpg").write_bytes(b"\xff\xd8jpeg")
    text, extra = make_report([folder]).markdown("zoo")
    assert extra == {"zoo-examples-0.jpg": b"\xff\xd8jpeg"} and "Examples of bundle" in text


def test_files_of_two_results_do_not_replace_each_other(files):
    text, extra = make_report([files["bench"], files["bench"]]).markdown("r")
    assert set(extra) == {"r-cls-top1.svg", "r-cls-top1-2.svg"} and all(f"({name})" in text for name in extra)


@pytest.mark.parametrize(
    ("content", "fact"),
    [(None, "missing"), (b"not json", "JSON"), (b"", "JSON|empty"), (b"\xff\xfe", "UTF-8"), (b'[{"event": "start"}]', "epoch"),
     (b'{"series": [], "comparisons": [{}], "dataset": 1}', "version"), (b'{"evaluations": []}', "evaluation")],
)  # fmt: skip
def test_what_no_report_can_be_made_from_is_a_typed_error(tmp_path, content, fact):
    path = tmp_path / "missing.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReportError, match=fact):
        make_report([path])


def test_an_empty_folder_or_no_file_is_a_typed_error(tmp_path):
    with pytest.raises(ReportError, match=r"bench\.json"):
        make_report([tmp_path])
    with pytest.raises(ReportError):
        make_report([])


def test_the_command_writes_both_files(files, tmp_path):
    out = tmp_path / "out" / "all.html"
    done = CliRunner().invoke(
        cli, ["report", *map(str, files.values()), "-o", str(out), "--md", "--title", "All of it"]
    )
    assert done.exit_code == 0, done.output
    written = [line for line in done.stdout.splitlines() if line]
    assert written[:2] == [str(out), str(out.with_suffix(".md"))] and "<h1>All of it</h1>" in out.read_text()
    shown = re.findall(r"!\[.*?\]\((.*?)\)", out.with_suffix(".md").read_text())
    assert shown and all((out.parent / name).is_file() for name in shown)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_the_contrast_of_wcag():
    """4.5 for text (1.4.3), also for the lines of charts, whose labels may be read by colour; 3 for rules (1.4.11)."""
    for background in (COLOURS["page"], COLOURS["panel"]):
        assert all(contrast(COLOURS[role], background) >= 4.5 for role in ("text", "muted", "link"))
        assert contrast(COLOURS["line"], background) >= 3
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in (*BAR_COLOURS, *CHART_COLOURS))


@pytest.mark.integration
@pytest.mark.skipif(chromium.find() is None, reason="Chromium is not installed")
def test_a_browser_shows_it_on_a_phone_and_in_print_without_network(files, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(make_report(list(files.values()), title="All").html())
    (tmp_path / "profile").mkdir()
    with chromium.Browser(tmp_path / "profile") as browser:
        for width in (320, 390, 1200):
            browser.size(width)
            browser.open(page.as_uri())
            assert browser.run("document.documentElement.scrollWidth") <= width
            smallest = (
                "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
            )
            assert browser.run(smallest) >= 9
            browser.screenshot(tmp_path / f"report-{width}.png")
        assert not browser.complaints()
        assert all(url.startswith(("file:", "data:")) for url in browser.requested())
        named = "[...document.querySelectorAll('[tabindex]')].every(e => e.getAttribute('aria-label'))"
        assert browser.run(named) and browser.run("[...document.images].every(i => i.alt)")
        assert browser.run("document.documentElement.lang") == "en"
        browser.call("Emulation.setEmulatedMedia", media="print")
        browser.size(700)  # A4 with margins
        assert browser.run("document.documentElement.scrollWidth") <= 700
        assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_damaged_result_is_a_typed_error(files, tmp_path):
    for name, path in files.items():
        if path.suffix != ".json":
            continue
        for _, _, whole in itertools.islice(damaged_copies(json.loads(path.read_text())), 0, None, 11):
            (tmp_path / f"bad-{name}.json").write_text(json.dumps(whole))
            with contextlib.suppress(ReportError):
                document = make_report([tmp_path / f"bad-{name}.json"])
                document.html(), document.markdown()


def test_a_log_that_ends_in_the_middle_of_a_line(tmp_path):
    text = "\n".join(map(json.dumps, LOG))
    (tmp_path / "log.jsonl").write_text(text + '\n{"event": "epo')
    assert make_report([tmp_path]).html()
    (tmp_path / "log.jsonl").write_text('{"event": "epo\n' + text)
    with pytest.raises(ReportError, match="JSON"):
        make_report([tmp_path])
    (tmp_path / "log.jsonl").write_text("[" * 100_000)
    with pytest.raises(ReportError, match="nested"):
        make_report([tmp_path])
