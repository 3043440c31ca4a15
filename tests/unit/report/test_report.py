"""The report: complete with everything there, still readable with most of it missing."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic_results import synthetic_config, synthetic_results, write_json

from mlip.cli.driver import read_summary
from mlip.criteria import Criterion
from mlip.io import files
from mlip.report import report_system, summary_table
from mlip.report.sources import read_loop

PICTURES = {"learning_curve", "parity", "calibration", "eos", "costs", "exploration"}
SUMMARY_KEYS = {
    "system", "iterations", "labels", "failed_labels", "force_rmse", "force_rmse_interval", "force_rmse_on",
    "converged", "reason", "a0", "B0", "a0_reference", "B0_reference", "core_seconds", "gpu_seconds", "ledger",
    "budget", "history", "retrained", "checksum",
}  # fmt: skip


def render(root: Path, iterations, **options) -> tuple[str, dict]:
    config = options.pop("config", None) or synthetic_config()
    page, summary = root / "report.html", root / "summary.json"
    report_system(config, root, iterations, out_html=page, out_summary=summary, **options)
    return page.read_text(encoding="utf-8"), json.loads(summary.read_text(encoding="utf-8"))


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def assessment_of(root: Path, number: int) -> Path:
    return root / f"iter_{number:02d}" / "assess_potential" / "assessment.json"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("results") / "silicon"
    iterations = synthetic_results(root)
    page, summary = render(root, iterations, figures=root / "figures")
    return root, iterations, page, summary


def test_page_holds_every_picture_and_needs_no_other_file(finished):
    root, _, page, _ = finished
    assert set(re.findall(r'<section id="(\w+)">', page)) >= PICTURES | {"iterations", "failures", "decisions"}
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#|&#39;data:)", page)
    assert all(target.startswith(("#", "data:image/png")) for target in re.findall(r'href="([^"]*)"', page))
    assert {path.stem for path in (root / "figures").iterdir()} == PICTURES
    assert len(page) < 1_500_000


def test_every_picture_has_words_and_theme_colours(finished):
    page = finished[2]
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 13
    for drawing in drawings:
        assert len(re.search(r'aria-label="([^"]*)"', drawing).group(1)) > 30
        assert "var(--ink)" in drawing
        assert not re.findall(r"(?:fill|stroke): #(?!000000|ffffff)\w{6}", drawing)
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identities)


def test_axes_have_units(finished):
    page = finished[2]
    for label in (
        "force RMSE (eV/Å)",
        "energy RMSE (meV/atom)",
        "volume (Å³/atom)",
        "core-minutes",
        "expected inside the interval (%)",
    ):
        assert f">{label}</text>" in page


def test_verdict_and_how_to_use(finished):
    root, _, page, _ = finished
    assert "Converged" in page
    assert page.count("✓ pass") == 5
    assert f'load_calculator("{root.as_posix()}/potential")' in page
    assert "unconverged" in page
    assert "atoms 1.1 Å apart" in page


def test_summary_follows_the_design(finished):
    root, _, _, summary = finished
    last = json.loads(assessment_of(root, 3).read_text())
    assert set(summary) == SUMMARY_KEYS
    assert summary["force_rmse"] == last["audit"]["force_rmse"]
    assert summary["force_rmse_interval"] == last["audit"]["interval"]
    assert summary["a0"] == last["properties"]["lattice_constant"]["potential"]
    assert (summary["converged"], summary["iterations"], len(summary["history"])) == (True, 4, 4)
    shards = [json.loads(p.read_text()) for p in root.glob("iter_*/label_structures/shard_*.json")]
    paid = sum(record["core_seconds"] for shard in shards for record in shard["records"])
    assert summary["core_seconds"]["label_structures"] == pytest.approx(paid)
    assert summary["core_seconds"]["train_committee"] == pytest.approx(4 * 65)


def note_attempts(root: Path, name: str, *attempts: tuple[int, int, float, bool]) -> None:
    """Attempts of a job: cores, GPUs, seconds, success."""
    path = root / "ledger" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    events = []
    for cores, gpus, seconds, ok in attempts:
        events.append({"event": "start", "time": 1000.0, "cores": cores, "gpus": gpus})
        events.append({"event": "end", "seconds": seconds, "ok": ok})
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_ledger_is_in_the_summary_and_on_the_page(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)
    note_attempts(root, "label_references", (4, 0, 100.0, True))
    note_attempts(root, "iter_00/train_committee", (2, 1, 300.0, False), (2, 1, 600.0, True))
    note_attempts(root, "iter_01/train_committee", (2, 1, 600.0, True))
    config = synthetic_config(budget={"core_hours": 10, "gpu_hours": 2})
    page, summary = render(root, iterations, config=config, figures=root / "figures")
    assert summary["core_seconds"] == {"label_references": 400.0, "train_committee": 3000.0}
    assert summary["gpu_seconds"]["train_committee"] == 1500.0
    assert summary["ledger"] == json.loads((root / "ledger.json").read_text())
    assert summary["budget"]["core_hours"] == 10
    (table,) = re.findall(r'<table id="ledger">.*?</table>', page, flags=re.DOTALL)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table)
    assert [cells[k : k + 5] for k in range(0, len(cells), 5)] == [
        ["label references", "7 min", "–", "1", "–"],
        ["train committee", "50 min", "25 min", "3", "1 (10 min)"],
        ["all steps", "57 min", "25 min", "4", "1 (10 min)"],
    ]
    assert "0.944 of 10 core-hours and 0.417 of 2 GPU-hours are used" in page
    assert "GPU time by step" in page
    assert "failed attempts 10, 0" in page
    assert "GPU time" in summary_table(summary)


def test_errors_on_the_test_set_are_drawn(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)
    for number, error in ((0, 0.375), (1, 0.125)):
        errors = {"force_rmse": error, "energy_rmse": error / 100}
        edit(assessment_of(root, number), lambda assessment, errors=errors: assessment.update(test=errors))
    page, _ = render(root, iterations)
    assert "of the test set: 0.375 at 23 labels, 0.125 at 33 labels" in page
    assert page.count(">test set</text>") == 2
    assert '<td class="num">0.125</td>' in page


def test_warnings_of_labels_are_shown(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 3)
    assert '<section id="warnings">' not in render(root, iterations)[0]
    for number, warnings in ((0, {"a < b": 3, "c": 1}), (2, {"a < b": 2})):
        path = root / f"iter_{number:02d}" / "collect_dataset" / "dataset.json"
        edit(path, lambda dataset, warnings=warnings: dataset.update(warnings=warnings))
    page, _ = render(root, iterations)
    (section,) = re.findall(r'<section id="warnings">.*?</section>', page, flags=re.DOTALL)
    assert re.findall(r"<td[^>]*>(.*?)</td>", section) == ["a &lt; b", "5", "0, 2", "c", "1", "0"]


def test_terminal_table_is_short_and_whole(finished):
    table = summary_table(finished[3])
    assert len(table.splitlines()) <= 12
    assert max(map(len, table.splitlines())) <= 120
    for text in ("silicon", "converged", "57 (2 failed)", "0.0666 [0.0499–0.108] eV/Å", "5.4755 Å", "+0.03 %", "GPa"):
        assert text in table


def test_labels_are_counted_by_reason(finished):
    root, iterations, _, _ = finished
    counts = read_loop(root, iterations).labels_by_reason()
    assert counts[0] == {"initial": 23, "failed": 1}
    assert counts[2] == {"uncertain": 8, "audit": 3}
    assert sum(counts[1].values()) == 11
    assert counts[1]["failed"] == 1


def test_same_results_give_the_same_page(finished, tmp_path):
    root, iterations, page, _ = finished
    again = tmp_path / "again.html"
    report_system(synthetic_config(), root, iterations, out_html=again, out_summary=tmp_path / "summary.json")
    assert again.read_text(encoding="utf-8") == page


def test_first_iteration_alone_has_no_errors_to_draw(tmp_path):
    root = tmp_path / "silicon"
    page, summary = render(root, synthetic_results(root, 1, failures=False), figures=root / "figures")
    assert summary["force_rmse"] is None
    assert {path.stem for path in (root / "figures").iterdir()} == PICTURES - {
        "learning_curve",
        "parity",
        "calibration",
    }
    assert '<p class="muted">None.</p>' in page
    assert "force RMSE" in summary_table(summary)


def test_only_assessments_are_needed(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 3)
    for folder in root.glob("iter_*"):
        for path in folder.iterdir():
            if path.name != "assess_potential":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (folder / "assess_potential").glob("*.nc"):
            path.unlink()
    page, summary = render(root, iterations)
    assert set(re.findall(r'<section id="(\w+)">', page)) == {"learning_curve", "exploration", "iterations", "failures"}
    assert summary["core_seconds"] == {}
    assert summary["labels"] == 46


def test_damaged_and_sparse_files_are_left_out(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 3)
    (root / "iter_02" / "assess_potential" / "parity.nc").write_bytes(b"CDF")
    (root / "iter_01" / "label_structures" / "shard_000.json").write_text('{"records": [')
    (root / "iter_01" / "provenance.json").write_text("{}")
    (root / "iter_00" / "select_candidates" / "decisions.csv").write_text("")

    def sparse(assessment):
        assessment["audit"]["interval"] = [None, None]  # a single audit frame
        assessment["calibration"]["spearman"] = None
        assessment["properties"]["lattice_constant"] |= {"potential": None, "relative_error": None}
        assessment["exploration"]["mean_uncertainty"] = None

    edit(assessment_of(root, 2), sparse)
    page, summary = render(root, iterations, figures=root / "figures")
    assert summary["force_rmse_interval"] is None
    assert summary["a0"] is None
    assert "The potential of iteration 0 on the structures labelled in iteration 1" in page
    assert "lattice constant" in summary_table(summary)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
@pytest.mark.parametrize(
    "name",
    ["train_committee/training.json", "provenance.json", "select_candidates/decisions.csv"],
)
def test_damaged_files_are_noticed_left_out_and_named(tmp_path, name, damage):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)
    path = root / "iter_01" / name
    if path.suffix == ".json":
        files.write_json(path, json.loads(path.read_text()), checked=True)
    page, _ = render(root, iterations)
    assert "Damaged files" not in page
    content = bytearray(path.read_bytes())
    # A plain table does not show a changed digit, but a lost line end.
    content[content.rindex(b"\n") if path.suffix == ".csv" else len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b""}[damage])
    page, _ = render(root, iterations)
    assert re.search(rf"Damaged files.*iter_01/{name}: [^<]*delete it and run again", page, re.DOTALL)
    record = read_loop(root, iterations).iterations[1]
    read = {"training": record.training, "provenance": record.provenance}
    assert not read.get(path.stem, getattr(record, path.stem, None))


def test_a_damaged_summary_is_refused(tmp_path):
    root = tmp_path / "silicon"
    render(root, synthetic_results(root, 1))
    path = root / "summary.json"
    assert read_summary(root)["system"] == "silicon"
    path.write_text(path.read_text().replace("silicon", "silicom"))
    with pytest.raises(files.FileContentError, match=r"summary\.json.*delete it and run again"):
        read_summary(root)


def test_without_audits_the_error_on_all_new_labels_counts(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)
    edit(assessment_of(root, 1), lambda assessment: assessment.update(audit=None))
    _, summary = render(root, iterations)
    assert summary["force_rmse"] == json.loads(assessment_of(root, 1).read_text())["fresh"]["force_rmse"]
    assert summary["force_rmse_interval"] is None


def test_a_loop_that_did_not_converge_says_why(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)

    def unfinished(assessment):
        assessment.update(converged=False, stop=False, reason="continue")
        assessment["criteria"][4] = {"name": "coverage", "value": 0.7, "target": 0.8, "passed": False}

    edit(assessment_of(root, 1), unfinished)
    page, summary = render(root, iterations, config=synthetic_config(max_iterations=2))
    assert not summary["converged"]
    assert summary["reason"].startswith("iteration limit: 2 of 2")
    assert "Not converged" in page
    assert "≥ 0.8" in page
    assert page.count("✗ fail") == sum(not c["passed"] for c in summary["history"][-1]["criteria"])
    assert "not converged (iteration limit" in summary_table(summary)
    edit(assessment_of(root, 1), lambda a: a.update(stop=True, reason="budget: 35 of 35 labels used"))
    assert render(root, iterations)[1]["reason"] == "budget: 35 of 35 labels used"


def test_a_criterion_without_target_shows_none_and_says_what_to_change(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)
    missing = Criterion("force RMSE, as D demands", 0.1, None, remedy="no force target follows; raise block_length")

    def unfinished(assessment):
        assessment.update(converged=False, stop=False, reason="continue")
        assessment["criteria"].append(missing.as_dict())

    edit(assessment_of(root, 1), unfinished)
    page, summary = render(root, iterations, config=synthetic_config(max_iterations=2))
    assert not missing.passed
    assert summary["reason"].endswith(f"{missing.name} ({missing.remedy})")
    assert f'<span class="muted">{missing.remedy}</span>' in page
    assert "≤ 0<" not in page


def test_text_from_files_cannot_break_the_page(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)

    def poison(shard):
        shard["records"][0].update(status="crashed", reason="<script>alert(1)</script>")

    edit(root / "iter_01" / "label_structures" / "shard_000.json", poison)
    page, _ = render(root, iterations)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_numbers_that_json_lacks_become_null(tmp_path):
    root = tmp_path / "silicon"
    iterations = synthetic_results(root, 2)
    text = assessment_of(root, 1).read_text()
    assessment_of(root, 1).write_text(re.sub(r'"stress_rmse_gpa": [\d.]+', '"stress_rmse_gpa": NaN', text))
    _, summary = render(root, iterations)
    assert summary["history"][1]["fresh"]["stress_rmse_gpa"] is None


def test_no_iteration_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        render(tmp_path, [])
    with pytest.raises(ValueError, match="assess_potential again"):
        render(tmp_path, [0])


def test_audits_that_are_too_few_for_an_interval_promise_none():
    from matplotlib.figure import Figure

    from mlip.report.error_figures import _draw_forces

    for interval, text in (([0.05, 0.2], "audit, 95 % interval"), ([None, None], "audit")):
        axes = Figure().subplots()
        audit = [(12, {"force_rmse": 0.1, "interval": interval, "confidence": 0.95})]
        _draw_forces(axes, [], audit, [], 0.15)
        assert [label.get_text() for label in axes.get_legend().get_texts()] == [text]


def test_points_at_zero_are_drawn_whole():
    from matplotlib.figure import Figure

    from mlip.report.loop_figures import _draw_shift

    axes = Figure().subplots()
    _draw_shift(axes, [(0, {"95": 0.0}), (1, {"95": 0.0})], [0, 1])
    assert axes.get_ylim()[0] == 0
    assert not axes.lines[0].get_clip_on()


def test_no_legend_lies_over_an_interval():
    from matplotlib.figure import Figure

    from mlip.report.drawing import style
    from mlip.report.error_figures import _draw_forces

    audit = [(12, {"force_rmse": 0.06, "interval": [0.0, 0.09], "confidence": 0.9})]
    test = [(12, {"force_rmse": 0.11}), (18, {"force_rmse": 0.09})]
    with style():
        figure = Figure(figsize=(4.3, 3.0), layout="constrained")
        axes = figure.add_subplot()
        _draw_forces(axes, fresh=[(12, {"force_rmse": 0.1})], audit=audit, test=test, target=0.15)
        figure.draw_without_rendering()
        legend = axes.get_legend().get_window_extent()
        assert not legend.overlaps(axes.get_window_extent().shrunk(0.99, 0.99))
        assert figure.bbox.x0 <= legend.x0
        assert legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize("folder", ["report", "studies"])
def test_tables_wider_than_a_phone_scroll_instead_of_the_page(folder):
    pages = sorted((Path(__file__).parents[3] / "mlip" / folder).rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.count("<table") == len(re.findall(r'<div class="scroll[^"]*"><table', text)), page.name
