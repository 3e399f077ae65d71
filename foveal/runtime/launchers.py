"""Who this process is among those that SLURM, MPI, torchrun or a script of one's own has started."""

from __future__ import annotations

import os
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

FIRST_PORT, PORTS = 15000, 15000  # below the ports that systems hand out themselves
NAME = "FOVEAL_LAUNCHER"  # the variable that remembers which launcher was recognized


@dataclass(frozen=True)
class LaunchedProcess:
    """A process among ``size`` of a run. ``job``: what no other run on the machine has, from which its port follows."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int  # processes on this machine
    host: str  # of rank 0; empty: unknown
    job: str

    def variables(self) -> dict[str, str]:
        """The environment variables with which torchrun says the same."""
        if self.size % self.local_size:
            raise UsageError(
                f"{self.launcher} started {self.size} processes, {self.local_size} of them on this machine",
                fix="Start the same number on every machine",
            )
        if not self.host and self.size != self.local_size:
            raise UsageError(
                f"{self.launcher} started processes on several machines and names none of them",
                where="MASTER_ADDR",
                fix="Set MASTER_ADDR to the name of the first machine",
            )
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "NODE_RANK": str(self.rank // self.local_size),
            "MASTER_ADDR": self.host or "127.0.0.1",
            "MASTER_PORT": str(FIRST_PORT + zlib.crc32(self.job.encode()) % PORTS),
            NAME: self.launcher,
        }


def adopt() -> None:
    """Recognizes the launcher, and sets the variables that torchrun would set, except those that are set already."""
    if NAME in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ:
        return
    place = _mpi(os.environ) or _slurm(os.environ)
    if place is not None and place.size > 1:
        for name, value in place.variables().items():
            os.environ.setdefault(name, value)


def external() -> tuple[str, int, int] | None:
    """The launcher, the processes that it started on this machine, and the number of machines; None: none did."""
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not torchrun and NAME not in os.environ:
        return None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "torchrun" if torchrun else os.environ[NAME], local, int(os.environ.get("WORLD_SIZE", local)) // local


def single_process_note(devices: int | None) -> str:
    """A note for a job of several tasks whose script is run once, without ``srun``, and in one process; else empty."""
    tasks = _number(os.environ, "SLURM_NTASKS")
    if devices is not None or external() is not None or tasks < 2 or "LOCAL_RANK" in os.environ:
        return ""
    return (
        f"SLURM has {tasks} tasks for this job, and one process was started, without srun: training in one process "
        f"(srun foveal train ... or --devices {tasks} uses them all)"
    )


def check_script(count: int) -> None:
    """Raises :class:`UsageError` where this program cannot be started again for the other ``count - 1`` processes."""
    main = vars(sys.modules["__main__"])
    file = main.get("__file__")
    again = main.get("__spec__") is not None or (file is not None and os.path.exists(file))
    if again and "ps1" not in vars(sys):
        return
    raise UsageError(
        f"a notebook, an interactive session or python -c cannot start {count} processes, which run the program again",
        where="devices",
        fix=f"Train with devices=1 here, or run foveal train ... --devices {count} in a terminal or from a script",
    )


def _mpi(env: Mapping[str, str]) -> LaunchedProcess | None:
    """Open MPI; MPICH and Intel MPI (Hydra); MVAPICH. Srun's PMI variables say less than SLURM's own."""
    job = env.get("PMIX_NAMESPACE") or env.get("OMPI_MCA_ess_base_jobid") or str(os.getppid())
    for prefix in ("OMPI_COMM_WORLD", "MV2_COMM_WORLD"):
        if f"{prefix}_RANK" in env and (size := _number(env, f"{prefix}_SIZE")):
            local = _number(env, f"{prefix}_LOCAL_SIZE") or size
            rank = _number(env, f"{prefix}_RANK")
            local_rank = int(env.get(f"{prefix}_LOCAL_RANK", rank % local))
            return LaunchedProcess("MPI", rank, size, local_rank, local, env.get("MASTER_ADDR", ""), job)
    known = "MPI_LOCALNRANKS" in env
    if "PMI_RANK" not in env or not (size := _number(env, "PMI_SIZE")) or (_in_step(env) and not known):
        return None
    rank, local = _number(env, "PMI_RANK"), _number(env, "MPI_LOCALNRANKS") or size
    local_rank = int(env.get("MPI_LOCALRANKID", rank % local))
    return LaunchedProcess("MPI", rank, size, local_rank, local, env.get("MASTER_ADDR", ""), job)


def _slurm(env: Mapping[str, str]) -> LaunchedProcess | None:
    """A task of ``srun``. A script of ``sbatch`` is no task, although it has most of the variables."""
    size = _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS")
    each = _number(env, "SLURM_NTASKS_PER_NODE")  # with a layout but no step: an early version, or one that is imitated
    rank = _number(env, "SLURM_PROCID")
    if "SLURM_PROCID" not in env or not (_in_step(env) or rank or each > 1):
        return None
    nodes = _number(env, "SLURM_STEP_NUM_NODES") or _number(env, "SLURM_NNODES") or 1
    listed = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    layout = env.get("SLURM_STEP_TASKS_PER_NODE", "")  # 2(x3): 2 tasks on each of three machines
    uneven = len(set(re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", layout))) > 1
    if uneven or size % nodes:
        raise UsageError(
            f"SLURM started {size} tasks unevenly on {nodes} machines",
            fix="Give srun --ntasks-per-node, the same on all",
        )
    job = f"{env.get('SLURM_JOB_ID', '')}.{env.get('SLURM_STEP_ID', env.get('SLURM_STEPID', ''))}"
    local = size // nodes
    host = "127.0.0.1" if nodes == 1 else _first_host(listed)
    return LaunchedProcess("SLURM", rank, size, int(env.get("SLURM_LOCALID", rank % local)), local, host, job)


def _in_step(env: Mapping[str, str]) -> bool:
    return any(name in env for name in ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS"))


def _first_host(listed: str) -> str:
    """``gpu[07-09,12],cpu1`` -> ``gpu07``."""
    match = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\]([^,]*))?", listed)
    return "".join(part or "" for part in match.groups()) if match else ""


def _number(env: Mapping[str, str], name: str) -> int:
    """The whole number in a variable; 0 without one."""
    text = env.get(name, "")
    return int(text) if text.isdecimal() else 0
