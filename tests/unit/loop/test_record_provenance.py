"""Benchmarks add up."""

from pathlib import Path

import pytest

from mlip.io.files import read_json
from mlip.loop import record_provenance as provenance


def test_benchmark_reads_the_last_run(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"

    def steps() -> dict[str, float]:
        config = {"system": "si", "seed": 1}
        provenance.record_provenance(config, 0, {}, tmp_path, [], out=tmp_path / "provenance.json")
        return read_json(tmp_path / "provenance.json")["steps"]["train"]

    path.write_text("s\th:m:s\tcpu_time\n5.0\t0:00:05\t4.0\n7.5\t0:00:07\t6.5\n")
    assert steps() == {"wall_seconds": 7.5, "core_seconds": 6.5}
    path.write_text("s\th:m:s\tcpu_time\n0.4\t0:00:00\tNA\n")
    assert steps() == {"wall_seconds": 0.4, "core_seconds": 0.4}


def test_optional_packages_are_reported_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "OPTIONAL_PACKAGES", ("pytest", "no-such-package"))
    found = provenance.package_versions()
    assert found["pytest"] == pytest.__version__
    assert "no-such-package" not in found
