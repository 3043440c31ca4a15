"""Jobs take over what their driver has found out."""

from __future__ import annotations

import json

import pytest

from mlip.jobs import planning


@pytest.fixture(autouse=True)
def no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(planning.DIGESTS, "{}")


def test_jobs_are_told_the_digests_of_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(planning, "code_digest", lambda *modules: asked.append(modules) or f"digest-{len(asked)}")
    first = planning.shared_digest("mlip.loop.collect_dataset", "mlip.io.extxyz", is_driver=True)
    assert planning.shared_digest("mlip.loop.collect_dataset", "mlip.io.extxyz", is_driver=False) == first == "digest-1"
    assert planning.shared_digest("mlip.loop.collect_dataset", is_driver=False) == "digest-2"  # nobody told it this one
    assert len(asked) == 2


def test_a_driver_started_in_a_job_of_another_computes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(planning.DIGESTS, json.dumps({"mlip.loop.collect_dataset": "stale"}))
    assert planning.shared_digest("mlip.loop.collect_dataset", is_driver=True) != "stale"
