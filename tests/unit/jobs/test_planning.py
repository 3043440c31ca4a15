"""What makes planning lighter changes nothing else."""

from __future__ import annotations

import gc
import json
from types import SimpleNamespace

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


def test_scripts_are_looked_for_once_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    import snakemake.api  # before its parts, which import each other

    looked = []
    monkeypatch.setattr(snakemake.dag.ScriptProcessor, "process_job", lambda self, job: looked.append(job.rule))
    for module in (snakemake.common, snakemake.rules):
        monkeypatch.setattr(module, "get_function_params", module.get_function_params)
    try:
        planning.lighten_planning()
        assert not gc.isenabled()
        for rule in ("label", "label", "train", "label"):
            snakemake.dag.ScriptProcessor.process_job(None, SimpleNamespace(rule=rule))
        assert list(snakemake.rules.get_function_params(lambda wildcards, attempt: None)) == ["wildcards", "attempt"]
        planning.resume_collection()
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
    assert looked == ["label", "train"]
