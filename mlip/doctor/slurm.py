"""Does the cluster have what the Slurm profile and the rules ask for? The Slurm part of ``mlip doctor``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

Run = Callable[..., "CompletedProcess[str]"]
SINFO_FORMAT = "%P|%G|%m|%c|%l"
MIN_JOB_AGE = 60  # seconds that squeue must remember a finished job
UNLIMITED = 10**9  # minutes
RULE = re.compile(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
RESOURCE = re.compile(r"^ +(mem_mb|runtime)=scaled\((\d+)\)", re.MULTILINE)
DERIVED = re.compile(r"^use rule (\w+) as (\w+) with:", re.MULTILINE)
LOCAL = re.compile(r"^localrules:\n((?: +\w+,\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike: memory in MB, time limit in minutes."""

    partition: str
    gres: str
    memory: int
    cores: int
    limit: int
    default: bool = False


@dataclass(frozen=True)
class Problem:
    """What does not fit; ``fatal`` when jobs would not start."""

    detail: str
    remedy: str
    fatal: bool = True


def compare_requests(profile: Path, rules: Path, run: Run) -> tuple[list[str], Problem | None]:
    """The cluster's partitions, and the first thing that the profile or the rules ask for and it has not.

    Args:
        profile: ``config.yaml`` of the profile.
        rules: folder of the rules, at any depth, whose requests hold where the profile has no others.
        run: starts a command, as ``mlip.doctor.checks`` does.
    """
    import yaml

    content = yaml.safe_load(profile.read_text(encoding="utf-8")) if profile.is_file() else {}
    answer = run("sinfo", "--noheader", f"--format={SINFO_FORMAT}")
    if answer.returncode != 0:
        return [], Problem(f"sinfo: {answer.stderr.strip()}", "Slurm's controller does not answer; ask the site.")
    nodes = parse_nodes(answer.stdout)
    if not nodes:
        return [], Problem("sinfo shows no partition", "Ask the site which ones you may use: none is open to you.")
    attempts = int(content.get("retries") or 0) + 1
    problems = [
        *(_misfit(name, wanted, nodes, attempts, profile) for name, wanted in job_requests(content, rules).items()),
        _no_partition(content.get("default-resources") or {}, nodes, profile),
        _account_problem(content.get("default-resources") or {}, profile, run),
        _status_problem(content, profile, run),
    ]
    real = [problem for problem in problems if problem is not None]
    worst = next((problem for problem in real if problem.fatal), real[0] if real else None)
    return sorted({node.partition for node in nodes}), worst


def parse_nodes(text: str) -> list[Nodes]:
    """What ``sinfo`` prints in ``SINFO_FORMAT``."""
    nodes = []
    for line in text.splitlines():
        partition, gres, memory, cores, limit = line.strip().split("|")
        sizes = int(memory.rstrip("+")), int(cores.rstrip("+")), _minutes(limit)
        nodes.append(Nodes(partition.rstrip("*"), gres, *sizes, default=partition.endswith("*")))
    return nodes


def job_requests(profile: Mapping[str, Any], rules: Path) -> dict[str, dict[str, Any]]:
    """Resources of every rule that goes to the queue: the rule's own, the profile's defaults where it has none,
    and over both the profile's ``set-resources``."""
    default = profile.get("default-resources") or {}
    changed = profile.get("set-resources") or {}
    requests: dict[str, dict[str, Any]] = {"default-resources": dict(default)}
    texts = [file.read_text(encoding="utf-8") for file in sorted(rules.rglob("*.smk"))]
    here = {name.strip(" ,") for text in texts for block in LOCAL.findall(text) for name in block.splitlines()}
    for name, body in (match for text in texts for match in RULE.findall(text)):
        if name not in here:
            requests[name] = {**default, **{key: f"{base} * attempt" for key, base in RESOURCE.findall(body)}}
    for origin, name in (match for text in texts for match in DERIVED.findall(text)):
        if name not in here and origin in requests:
            requests[name] = dict(requests[origin])
    for name, resources in changed.items():
        requests[name] = {**requests.get(name, default), **(resources or {})}
    return requests


def _misfit(
    name: str, wanted: Mapping[str, Any], nodes: Sequence[Nodes], attempts: int, profile: Path
) -> Problem | None:
    partition = wanted.get("slurm_partition")
    names = sorted({node.partition for node in nodes})
    if partition is not None and partition not in names:
        remedy = f"Edit {profile}. There are: {', '.join(names)}"
        return Problem(f"{name} asks for partition {partition!r}, which does not exist", remedy)
    # Without a partition, Slurm takes the default one; where sinfo marks none, anything may be meant.
    partition = partition or next((node.partition for node in nodes if node.default), None)
    place = f"partition {partition}" if partition else "the cluster"
    choice = [node for node in nodes if partition is None or node.partition == partition]
    gpu = _wanted_gpu(wanted)
    if gpu is not None:
        choice = [node for node in choice if _offers(node.gres, *gpu)]
        if not choice:
            what = "a GPU" if gpu == (None, 1) else f"{gpu[1]} GPUs{f' of model {gpu[0]}' if gpu[0] else ''} a node"
            remedy = f"Name a GPU partition there, or delete the block, in {profile}"
            return Problem(f"{name} asks for {what}, {place} has none", remedy)
    for attempt in sorted({1, attempts}):
        for key, unit, most in (
            ("mem_mb", "MB", max(node.memory for node in choice)),
            ("runtime", "minutes", max(node.limit for node in choice)),
        ):
            amount = _amount(wanted.get(key), attempt)
            if amount > most:
                remedy = f"Set {key} of {name} in `set-resources` of {profile}, or another partition"
                when = "" if attempt == 1 else f" at attempt {attempt}"
                detail = f"{name} asks for {amount} {unit}{when}, {place} has {most} at most"
                return Problem(detail, remedy, fatal=attempt == 1)
    return None


def _amount(value: Any, attempt: int) -> int:
    """A number, or a product with ``attempt``; 0 for what cannot be told without Snakemake."""
    product = re.fullmatch(r"\s*(\d+)\s*(\*\s*attempt)?\s*", str(value))
    return int(product.group(1)) * (attempt if product.group(2) else 1) if product else 0


def _wanted_gpu(wanted: Mapping[str, Any]) -> tuple[str | None, int] | None:
    """Model and number of the GPUs of a job, from ``gres`` or ``gpu``."""
    if wanted.get("gpu"):
        return wanted.get("gpu_model"), int(wanted["gpu"])
    gpu = re.search(r"\bgpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?", str(wanted.get("gres") or ""))
    return (gpu.group(1), int(gpu.group(2) or 1)) if gpu else None


def _offers(gres: str, model: str | None, count: int) -> bool:
    offers = re.findall(r"\bgpu(?::([A-Za-z][\w.-]*))?:(\d+)", gres)
    return any((model is None or model == name) and int(number) >= count for name, number in offers)


def _no_partition(default: Mapping[str, Any], nodes: Sequence[Nodes], profile: Path) -> Problem | None:
    """Only a warning: a site's plugin or ``SBATCH_PARTITION`` may choose one."""
    if default.get("slurm_partition") is not None or any(node.default for node in nodes):
        return None
    names = ", ".join(sorted({node.partition for node in nodes}))
    remedy = f"Name slurm_partition in `default-resources` of {profile}. There are: {names}"
    return Problem("no partition is named and sinfo marks none as the default (*)", remedy, fatal=False)


def _account_problem(default: Mapping[str, Any], profile: Path, run: Run) -> Problem | None:
    """Only where sacctmgr answers: sites without accounting have no accounts."""
    account = default.get("slurm_account")
    if account is None:
        return None
    answer = run("sh", "-c", 'sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=account')
    accounts = sorted(set(answer.stdout.split()))
    if answer.returncode != 0 or not accounts or account in accounts:
        return None
    remedy = f"Edit {profile}. You may use: {', '.join(accounts)}"
    return Problem(f"slurm_account {account!r} is not one of yours", remedy)


def _status_problem(profile: Mapping[str, Any], path: Path, run: Run) -> Problem | None:
    """Can finished jobs be found by the command that the executor will use?"""
    if profile.get("slurm-status-command") != "squeue":
        if run("sacct", "--noheader", "--allocations").returncode == 0:
            return None
        remedy = f"Set `slurm-status-command: squeue` in {path}"
        return Problem("no accounting (sacct fails), by which finished jobs are found", remedy, fatal=False)
    age = re.search(r"MinJobAge\s*=\s*(\d+)", run("scontrol", "show", "config").stdout)
    if age and int(age.group(1)) < MIN_JOB_AGE:
        detail = f"squeue forgets finished jobs after {age.group(1)} s (MinJobAge), too early to notice them"
        remedy = (
            f"Remove `slurm-status-command: squeue` in {path} if sacct works, else ask the site for {MIN_JOB_AGE} s"
        )
        return Problem(detail, remedy, fatal=False)
    return None


def _minutes(limit: str) -> int:
    """Slurm's ``days-hours:minutes:seconds`` in minutes."""
    parts = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit.strip())
    if not parts:
        return UNLIMITED
    days, hours, minutes, _ = (int(part or 0) for part in parts.groups())
    return (24 * days + hours) * 60 + minutes
