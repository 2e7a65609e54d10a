"""What Snakemake is told so that a study's jobs run on a cluster, by Snakemake's own executors."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine.preflight import check_executor

ANSWER_SECONDS = 10.0
"""How long Slurm's controller may take to answer."""

LEAST_JOB_AGE_SECONDS = 200
"""How long Slurm has to remember a job where there is no accounting: Snakemake looks at least each 180 s."""

PROFILES = Path(__file__).parent / "profiles"


def cluster_arguments(executor: str, profile: str | Path | None = None) -> list[str]:
    """Return Snakemake's arguments for a cluster, once that is known to answer.

    Requeueing, retries, memory and time are in the profile.

    Args:
        executor: Snakemake's name of what runs jobs, such as `slurm`.
        profile: A folder with a `config.yaml`, or the name of one as Snakemake knows it; None: the one that is shipped.
    Raises:
        InputError: If the executor's plug-in or the profile is not there, or Slurm's commands are missing, or its
            controller does not answer, or it forgets jobs before Snakemake sees how they ended.
    """
    check_executor(executor)
    words = ["--executor", executor]
    found = _profile(executor, profile)
    if found is not None:
        words += ["--profile", found]
    if executor == "slurm":
        words += _status_command(slurm_settings())
    return words


def slurm_settings(seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """Return how the cluster is set up, as `scontrol show config` prints it.

    Args:
        seconds: How long the controller may take to answer.
    Raises:
        InputError: If there is no Slurm here, or it does not answer.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if missing:
        raise InputError(
            f"--executor slurm: there is no {missing[0]} here; run this where jobs are submitted, on a login node"
        )
    try:
        asked = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=seconds, check=True
        )
    except subprocess.TimeoutExpired:
        message = f"Slurm's controller does not answer within {seconds:g} s; try: scontrol ping"
        raise InputError(f"--executor slurm: {message}") from None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise InputError(f"--executor slurm: Slurm does not answer: {lines[-1] if lines else error}") from None
    pairs = (line.partition("=") for line in asked.stdout.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def keep_restart_count() -> None:
    """Let this process, and those it starts, know how often its Slurm job was requeued: `SLURM_RESTART_COUNT`.

    Snakemake's plug-in takes it away from its jobs. By it alone a lock of the same job's last run is told from one of
    this run, which lives. Nothing is done outside of a Slurm job, or where squeue does not answer.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or "SLURM_RESTART_COUNT" in os.environ:
        return
    words = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--Format=RestartCnt:20"]
    with suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
        counted = asked.stdout.split()
        if counted and counted[0].isdecimal():
            os.environ["SLURM_RESTART_COUNT"] = counted[0]


def _profile(executor: str, profile: str | Path | None) -> str | None:
    shipped = PROFILES / executor
    if profile is None:
        return str(shipped) if shipped.is_dir() else None
    given = Path(profile).expanduser()
    remedy = f"copy {PROFILES / 'slurm'} and change it"
    if given.is_file():
        return str(given.absolute())
    if given.is_dir():
        # Snakemake also reads files for one of its versions, such as config.v9+.yaml
        if not any(file.name.startswith(("config.", "profile.")) for file in given.glob("*.yaml")):
            raise InputError(f"--profile {profile}: the folder has no config.yaml; {remedy}")
        return str(given.absolute())
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "snakemake"
    if any((place / given).is_dir() for place in (own, Path("/etc/xdg/snakemake"))):
        return str(profile)
    raise InputError(f"--profile {profile}: there is no such folder, here or in {own}; {remedy}")


def _status_command(settings: dict[str, str]) -> list[str]:
    """How Snakemake asks for the states of its jobs.

    Without accounting its default, sacct, never tells them, and Snakemake waits for ever. squeue knows a finished job
    as long as the controller remembers it.
    """
    storage = settings.get("AccountingStorageType", "")
    if storage.endswith("/slurmdbd"):
        return []
    age = re.match(r"\d+", settings.get("MinJobAge", ""))
    if age is not None and int(age[0]) < LEAST_JOB_AGE_SECONDS:
        raise InputError(
            f"--executor slurm: this cluster has no accounting ({storage}) and forgets a job {age[0]} s after its end "
            f"(MinJobAge): Snakemake could miss how it ended; ask for MinJobAge of at least {LEAST_JOB_AGE_SECONDS} s"
        )
    return ["--slurm-status-command", "squeue"]
