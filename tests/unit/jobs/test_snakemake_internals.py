"""What the loop takes from inside Snakemake is there, as it was when it was taken."""

import asyncio
import contextlib
import gc
import inspect
import os
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api  # before its parts, which import each other
from snakemake.settings.types import ConfigSettings, ExecutionSettings, RemoteExecutionSettings
from snakemake.workflow import Workflow
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.registry.plugin import Plugin
from snakemake_interface_executor_plugins.settings import CommonSettings

from mlip.jobs import snakemake_internals as internals
from mlip.jobs.slurm import submission


@pytest.mark.parametrize("package", internals.VERSIONS)
def test_versions_are_those_that_were_read(package: str) -> None:
    """Raise the version in the module after reading its functions against the new one."""
    assert version(package) == internals.VERSIONS[package]


def test_what_is_touched_in_snakemake_exists() -> None:
    assert list(inspect.signature(Workflow.execute).parameters)[:2] == ["self", "executor_plugin"]
    assert isinstance(Workflow.is_main_process, property)
    names = {kind: {field.name for field in fields(kind)} for kind in (CommonSettings, ExecutionSettings)}
    assert {"dryrun_exec", "touch_exec"} <= names[CommonSettings]
    assert {"lock", "latency_wait"} <= names[ExecutionSettings]
    assert "configfiles" in {field.name for field in fields(ConfigSettings)}
    assert not ConfigSettings.__dataclass_params__.frozen
    assert {"execution_settings", "config_settings"} <= {field.name for field in fields(Workflow)}
    assert isinstance(Plugin.name, property)


def test_what_makes_planning_lighter_exists() -> None:
    assert list(inspect.signature(snakemake.dag.ScriptProcessor.process_job).parameters) == ["self", "job"]
    assert snakemake.rules.get_function_params is snakemake.common.get_function_params
    assert list(inspect.signature(snakemake.common.get_function_params).parameters) == ["func"]
    # The parameters of a function cannot change: remembering them is safe.
    assert "inspect.signature(func)" in inspect.getsource(snakemake.common.get_function_params)


def test_scripts_are_looked_for_once_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(snakemake.dag.ScriptProcessor, "process_job", lambda self, job: looked.append(job.rule))
    for module in (snakemake.common, snakemake.rules):
        monkeypatch.setattr(module, "get_function_params", module.get_function_params)
    try:
        internals.lighten_planning()
        assert not gc.isenabled()
        for rule in ("label", "label", "train", "label"):
            snakemake.dag.ScriptProcessor.process_job(None, SimpleNamespace(rule=rule))
        assert list(snakemake.rules.get_function_params(lambda wildcards, attempt: None)) == ["wildcards", "attempt"]
        internals.resume_collection()
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
    assert looked == ["label", "train"]


def test_what_is_touched_in_the_slurm_plugin_exists() -> None:
    import snakemake_executor_plugin_slurm as executor

    assert not inspect.signature(executor.get_min_job_age).parameters
    assert inspect.iscoroutinefunction(RemoteExecutor.sleep)
    assert list(inspect.signature(RemoteExecutor.sleep).parameters) == ["self"]
    assert isinstance(RemoteExecutor.next_seconds_between_status_checks, property)
    assert "sleep" not in vars(executor.Executor)  # else the executor's own would be the one that is called
    assert "seconds_between_status_checks" in {field.name for field in fields(RemoteExecutionSettings)}


def test_comment_of_the_slurm_plugin_is_the_one_that_is_read() -> None:
    from snakemake_executor_plugin_slurm import Executor, get_job_wildcards

    assert get_job_wildcards(SimpleNamespace(wildcards=["si", "eos", "01"])) == "si_eos_01"
    assert 'f"rule_{job.name}_wildcards_{wildcard_str}"' in inspect.getsource(Executor)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["before local 5.0", "run", "after"]),
        ({"dryrun_exec": True}, ["run"]),
        ({"touch_exec": True}, ["run"]),
        ({"lock": False}, ["run"]),
        ({"is_main_process": False}, ["run"]),
    ],
)
def test_runs_of_a_driver_are_guarded(changes: dict[str, bool], expected: list[str]) -> None:
    done: list[str] = []
    values = {"dryrun_exec": False, "touch_exec": False, "lock": True, "is_main_process": True} | changes

    @contextlib.contextmanager
    def guard(execution: internals.Execution):
        done.append(f"before {execution.executor} {execution.latency}")
        execution.give_jobs(Path("frozen.json"))
        yield
        done.append("after")

    workflow = SimpleNamespace(
        execute=lambda plugin, *, quiet: done.append("run") or quiet,
        is_main_process=values["is_main_process"],
        execution_settings=SimpleNamespace(lock=values["lock"], latency_wait=5),
        config_settings=SimpleNamespace(configfiles=[]),
    )
    internals.guard_execution(workflow, guard)
    plugin = SimpleNamespace(name="local", common_settings=SimpleNamespace(**values))
    assert workflow.execute(plugin, quiet="answer") == "answer"
    assert done == expected
    assert workflow.config_settings.configfiles == ([Path("frozen.json")] if len(expected) > 1 else [])


def test_executor_keeps_to_squeue_while_slurmctld_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import snakemake_executor_plugin_slurm as executor

    monkeypatch.setattr(RemoteExecutor, "sleep", RemoteExecutor.sleep)  # put back afterwards
    answers = iter([300, None, 120])
    monkeypatch.setattr(executor, "get_min_job_age", lambda: next(answers))
    internals.make_executor_patient()
    assert [executor.get_min_job_age(), executor.get_min_job_age()] == [300, 120]
    assert os.environ["PATH"].startswith(str(submission.BIN))


@pytest.mark.parametrize(("next_interval", "expected"), [(20, 20), (30, 25), (180, 25)])
def test_executor_looks_as_often_as_the_profile_says(monkeypatch, next_interval: int, expected: int) -> None:
    import snakemake_executor_plugin_slurm as executor

    slept = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(executor, "get_min_job_age", lambda: 300)
    monkeypatch.setattr(RemoteExecutor, "sleep", RemoteExecutor.sleep)  # put back afterwards
    internals.make_executor_patient()
    monkeypatch.setattr(asyncio, "sleep", note)
    monkeypatch.setattr(internals.time, "monotonic", lambda: float(sum(slept)))
    settings = SimpleNamespace(seconds_between_status_checks=25)
    running = SimpleNamespace(
        wait=True,
        next_seconds_between_status_checks=next_interval,
        workflow=SimpleNamespace(remote_execution_settings=settings),
    )
    asyncio.run(RemoteExecutor.sleep(running))
    assert sum(slept) == expected
    running.wait = False
    asyncio.run(RemoteExecutor.sleep(running))
    assert sum(slept) == expected
