"""A real Slurm in one private folder: own ports, own key, no systemd, nothing of the system's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
NODES = ("node1", "node2")

# MinJobAge: finished jobs stay in squeue, where Snakemake and the tests look for them.
# SchedulerParameters: jobs start at once instead of with the next round of the scheduler.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=2
CompleteWait=0
MinJobAge=3600
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# One core a node, whatever the machine has: jobs of one core run on both nodes.
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 Boards=1 SocketsPerBoard=1"
    " CoresPerSocket=1 ThreadsPerCore=1 RealMemory=64000 Gres=gpu:1 State=UNKNOWN"
)
# Slurm hands out any device file as a GPU.
GRES_CONF = "Name=gpu File=/dev/null\n"


class SlurmJob(NamedTuple):
    """What squeue says of a job, running or finished; ``name`` is the rule with its wildcards."""

    id: str
    state: str
    name: str
    gres: str
    memory: str
    node: str

    @property
    def rule(self) -> str:
        return self.name.removeprefix("rule_").partition("_wildcards_")[0]


class SlurmCluster:
    """Two nodes with a core and a made-up GPU each; a context manager that leaves no process behind."""

    def __init__(self) -> None:
        # Not pytest's folder: a socket's path has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.daemons: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to talk to this Slurm and no other."""
        return {"SLURM_CONF": str(self._conf), "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def __enter__(self) -> SlurmCluster:
        try:
            self._configure()
            self._start_munge()
            self._start("slurmctld", "-D")
            for name in NODES:
                self._start("slurmd", "-D", "-N", name)
            self._wait_for(lambda: self.command("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(NODES))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self.daemons) > 1:
            # A job outlives its slurmd.
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.command("scancel", "--user", "root")
                self._wait_for(lambda: not self.command("squeue", "-h").strip(), seconds=20)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words: str) -> str:
        """Output of one of Slurm's commands; RuntimeError with its message when it fails."""
        done = subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[SlurmJob]:
        """Every job since the start, the oldest first."""
        lines = self.command("squeue", "-h", "--states=all", "--sort=i", "-o", "%i|%T|%k|%b|%m|%N").splitlines()
        return [SlurmJob(*line.split("|")) for line in lines]

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        port, *node_ports = free_ports(1 + len(NODES))
        nodes = [NODE.format(name=name, host=host, port=p) for name, p in zip(NODES, node_ports, strict=True)]
        content = SLURM_CONF.format(host=host, port=port, folder=self.folder, nodes="\n".join(nodes))
        self._conf.write_text(content)
        (self.folder / "gres.conf").write_text(GRES_CONF)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (self.folder / "state").mkdir()
        # Snakemake's executor takes SLURM_CONF away from the srun inside jobs, which then looks in
        # /etc/slurm; an installed Slurm is found there, this one is not.
        srun = self.folder / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self._conf} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def _start_munge(self) -> None:
        key, munge_socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key-file": key, "socket": munge_socket, "pid-file": self.folder / "munge.pid"}
        files["seed-file"] = self.folder / "munge.seed"
        self._start("munged", "--foreground", "--force", *(f"--{option}={path}" for option, path in files.items()))
        self._wait_for(munge_socket.exists)

    def _start(self, *words: str) -> None:
        with (self.folder / f"{len(self.daemons)}-{words[0]}.log").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(words, env=os.environ | self.environment, stdout=log, stderr=log, cwd=self.folder)
            )

    def _wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):  # not reachable yet
                if condition():
                    return
            time.sleep(0.2)
        logs = [f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in self.folder.glob("*.log")]
        raise RuntimeError(f"Slurm is not ready after {seconds} s\n" + "\n".join(logs))


def missing_programs(programs: Sequence[str] = PROGRAMS) -> list[str]:
    """Those of Slurm's programs that are not installed."""
    return [name for name in programs if shutil.which(name) is None]


def free_ports(count: int) -> list[int]:
    """``count`` different ports on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
