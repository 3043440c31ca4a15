"""A real Slurm in one private folder: own ports, own key, no systemd, nothing of the system's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")

# OverMemoryKill: a limit on memory without cgroups. SlurmdTimeout: a dead node is noticed soon.
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
{limits}
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
{accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdTimeout=20
KillWait=2
CompleteWait=0
Epilog={folder}/epilog
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
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu"""
# A job's memory is limited by the kernel, which kills the process that takes the last of it, not the job.
BY_PROCESSES = """ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherParams=OverMemoryKill"""
BY_CGROUPS = """ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup"""
CGROUP_CONF = """CgroupAutomount=no
CgroupPlugin=cgroup/v1
ConstrainRAMSpace=yes
"""
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
DATABASE = """
CREATE DATABASE slurm_acct;
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO 'slurm'@'localhost';
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';
"""


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
    """Nodes with a core and a made-up GPU each; a context manager that leaves no process behind.

    Args:
        n_nodes: how many, called ``node1``, ``node2``, …
        accounting: with slurmdbd and a MariaDB of its own, for ``sacct``.
        cgroups: memory is limited by the kernel, as on most clusters; see :func:`no_cgroups`.
    """

    def __init__(self, n_nodes: int = 2, accounting: bool = False, cgroups: bool = False) -> None:
        # Not pytest's folder: a socket's path has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.nodes = [f"node{number + 1}" for number in range(n_nodes)]
        self.accounting, self.cgroups = accounting, cgroups
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(3 + n_nodes)
        self._ports = dict(zip(("slurmctld", "slurmdbd", "mariadbd", *self.nodes), ports, strict=True))

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to talk to this Slurm and no other."""
        return {"SLURM_CONF": str(self.conf), "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    @property
    def conf(self) -> Path:
        """The file that all daemons and commands read."""
        return self.folder / "slurm.conf"

    def __enter__(self) -> SlurmCluster:
        try:
            self._configure()
            self._start_munge()
            if self.accounting:
                self._start_database()
                self.start("slurmdbd")
                self._wait_for(lambda: bool(self.command("sacctmgr", "-i", "add", "cluster", "test")))
            self.start("slurmctld")
            for name in self.nodes:
                self.start(name)
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if "slurmctld" in self.daemons:
            # A job outlives its slurmd.
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.command("scancel", "--user", "root")
                self._wait_for(lambda: not self.command("squeue", "-h").strip(), seconds=20)
        for name in reversed(list(self.daemons)):
            self.stop(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str) -> None:
        """Start a daemon, or start it again: ``slurmctld``, ``slurmdbd`` or a node's name."""
        words = ["slurmd", "-D", "-N", name] if name in self.nodes else [name, "-D"]
        self._start(name, *words)
        if name == "slurmdbd":  # a slurmctld that starts earlier gives up
            self._wait_for(lambda: self.command("sacctmgr", "--noheader", "show", "tres") != "")

    def stop(self, name: str, kill: bool = False) -> None:
        """End a daemon, politely or with SIGKILL."""
        daemon = self.daemons.pop(name)
        daemon.kill() if kill else daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def kill_node(self, name: str) -> None:
        """A power cut: slurmd and everything that its jobs run are gone at once, without a word to Slurm."""
        self.stop(name, kill=True)
        # More than once: a process may start another one between being found and being killed.
        self._wait_for(lambda: not self._kill(self.processes(f"SLURMD_NODENAME={name}")), seconds=20)

    def _kill(self, processes: list[int]) -> list[int]:
        """SIGKILL for these processes of jobs and the slurmstepd above them; returns the processes."""
        parents = set()
        for pid in processes:
            with contextlib.suppress(OSError):  # it has ended
                stat = (Path("/proc") / str(pid) / "stat").read_text()
                parent = Path("/proc") / stat.rpartition(")")[2].split()[1]
                if (parent / "comm").read_text().strip() == "slurmstepd":
                    parents.add(int(parent.name))
        for pid in [*parents, *processes]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return processes

    def cancel(self, job: str) -> None:
        """``scancel``, and the end of all that the job runs: Slurm's command returns before anything has happened."""
        self.command("scancel", job)
        self._wait_for(lambda: not self.processes(f"SLURM_JOB_ID={job}"), seconds=20)

    def processes(self, *variables: str) -> list[int]:
        """Processes of this Slurm's jobs that have these environment variables, as ``NAME=value``."""
        wanted, found = {variable.encode() for variable in (f"SLURM_CONF={self.conf}", *variables)}, []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted <= set(path.read_bytes().split(b"\0")):
                    found.append(int(path.parent.name))
        return found

    def wait_until_ready(self) -> None:
        """Until all nodes can take jobs."""
        states = {"idle", "mixed", "allocated", "completing"}
        self._wait_for(lambda: set(self.command("sinfo", "-h", "-N", "-o", "%T").split()) <= states)

    def command(self, *words: str) -> str:
        """Output of one of Slurm's commands; RuntimeError with its message when it fails."""
        done = subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[SlurmJob]:
        """Every job since the start, the oldest first."""
        lines = self.command("squeue", "-h", "--states=all", "--sort=i", "-o", "%i|%T|%k|%b|%m|%N").splitlines()
        return [SlurmJob(*line.split("|")) for line in lines]

    def _configure(self) -> None:
        host = host_name()
        nodes = [NODE.format(name=name, host=host, port=self._ports[name]) for name in self.nodes]
        accounting = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            accounting = ACCOUNTING.format(port=self._ports["slurmdbd"], folder=self.folder)
        content = SLURM_CONF.format(
            host=host, port=self._ports["slurmctld"], folder=self.folder, accounting=accounting, nodes="\n".join(nodes),
            limits=BY_CGROUPS if self.cgroups else BY_PROCESSES,
        )  # fmt: skip
        self.conf.write_text(content)
        (self.folder / "gres.conf").write_text(GRES_CONF)
        (self.folder / "cgroup.conf").write_text(CGROUP_CONF if self.cgroups else "CgroupAutomount=no\n")
        (self.folder / "state").mkdir()
        # Snakemake's executor takes SLURM_CONF away from the srun inside jobs, which then looks in
        # /etc/slurm; an installed Slurm is found there, this one is not.
        self.wrap_srun('exec {srun} "$@"')
        self.write_program("epilog", "exit 0")

    def wrap_srun(self, script: str) -> None:
        """What jobs find as ``srun``; ``{srun}`` stands for the real one."""
        self.write_program("bin/srun", f"export SLURM_CONF={self.conf}\n" + script.format(srun=shutil.which("srun")))

    def write_program(self, name: str, script: str) -> None:
        """A shell script in the cluster's folder: ``epilog``, or a program in ``bin``."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def _start_munge(self) -> None:
        key, munge_socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key-file": key, "socket": munge_socket, "pid-file": self.folder / "munge.pid"}
        files["seed-file"] = self.folder / "munge.seed"
        options = [f"--{option}={path}" for option, path in files.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        self._wait_for(munge_socket.exists)

    def _start_database(self) -> None:
        data, database_socket = self.folder / "database", self.folder / "database.socket"
        options = ["--no-defaults", f"--datadir={data}", "--user=root"]
        install = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, capture_output=True, check=True)
        first = self.folder / "database.sql"
        first.write_text(DATABASE)
        where = [f"--socket={database_socket}", f"--port={self._ports['mariadbd']}", "--bind-address=127.0.0.1"]
        fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"]
        self._start("mariadbd", "mariadbd", *options, *where, *fast, f"--pid-file={self.folder / 'database.pid'}")
        self._wait_for(database_socket.exists)
        client = ["mariadb", "--no-defaults", f"--socket={database_socket}", "--user=root"]
        with first.open() as stream:
            subprocess.run(client, stdin=stream, capture_output=True, check=True)
        conf = self.folder / "slurmdbd.conf"
        conf.touch(mode=0o600)
        ports = {"port": self._ports["slurmdbd"], "database_port": self._ports["mariadbd"]}
        conf.write_text(SLURMDBD_CONF.format(folder=self.folder, host=host_name(), **ports))

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                words, env=os.environ | self.environment, stdout=log, stderr=log, cwd=self.folder
            )

    def _wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        last: Exception | None = None
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except (RuntimeError, subprocess.TimeoutExpired) as error:  # not reachable yet
                last = error
            time.sleep(0.2)
        logs = [f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in self.folder.glob("*.log")]
        raise RuntimeError(f"Slurm is not ready after {seconds} s: {last}\n" + "\n".join(logs))


def no_cgroups() -> str:
    """Why Slurm cannot use control groups here; empty where it can."""
    for kind in ("memory", "freezer"):
        folder = MEMORY_CGROUP.with_name(kind) / f"test-{os.getpid()}"
        try:
            folder.mkdir()
            folder.rmdir()
        except OSError as error:
            return f"no control group (v1) can be made: {error}"
    return ""


def missing_programs(programs: Sequence[str] = PROGRAMS) -> list[str]:
    """Those of Slurm's programs that are not installed."""
    return [name for name in programs if shutil.which(name) is None]


def host_name() -> str:
    """This machine's name as Slurm's daemons compare it."""
    return socket.gethostname().partition(".")[0]


def free_ports(count: int) -> list[int]:
    """``count`` different ports on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
