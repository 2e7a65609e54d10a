import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine import cluster
from nnunet_attn.study.engine.cluster import PROFILES, cluster_arguments, keep_restart_count, slurm_settings

CONFIG = """Configuration data as of 2026-01-01T00:00:00
AccountingStorageType   = {storage}
MinJobAge               = {age}
SLURM_CONF              = /etc/slurm/slurm.conf
"""


def _script(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Slurm's commands, the only one on the path; `scontrol` prints `config`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        _script(folder, name, "exit 0")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(cluster, "check_executor", lambda name: None)
    return folder


def _config(commands: Path, storage: str, age: str) -> None:
    text = CONFIG.format(storage=storage, age=age)
    _script(commands, "scontrol", f'[ "$1 $2" = "show config" ] || exit 1\necho "{text}"')


def test_the_shipped_profile_and_slurms_own_database(commands: Path) -> None:
    _config(commands, "accounting_storage/slurmdbd", "2 sec")
    assert cluster_arguments("slurm") == ["--executor", "slurm", "--profile", str(PROFILES / "slurm")]


def test_without_accounting_squeue_is_asked(commands: Path) -> None:
    _config(commands, "accounting_storage/none", "300 sec")
    assert cluster_arguments("slurm")[-2:] == ["--slurm-status-command", "squeue"]


@pytest.mark.parametrize("age", ["60 sec", "0 sec"])
def test_without_accounting_and_memory_of_jobs_nothing_starts(commands: Path, age: str) -> None:
    _config(commands, "accounting_storage/none", age)
    with pytest.raises(InputError, match=rf"forgets a job {age.split()[0]} s after its end .* at least 200 s"):
        cluster_arguments("slurm")


def test_another_executor_gets_no_argument_of_slurm(commands: Path) -> None:
    assert cluster_arguments("lsf") == ["--executor", "lsf"]


@pytest.mark.parametrize("missing", ["sbatch", "scontrol"])
def test_a_machine_without_slurm_is_named(commands: Path, missing: str) -> None:
    _config(commands, "accounting_storage/none", "300 sec")
    (commands / missing).unlink()
    with pytest.raises(InputError, match=rf"there is no {missing} here; run this .* on a login node"):
        cluster_arguments("slurm")


def test_a_controller_that_does_not_answer_in_time(commands: Path) -> None:
    _script(commands, "scontrol", "exec /bin/sleep 30")
    with pytest.raises(InputError, match=r"controller does not answer within 0\.3 s; try: scontrol ping"):
        slurm_settings(0.3)


def test_what_slurm_says_about_its_failure_is_shown(commands: Path) -> None:
    _script(commands, "scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(InputError, match=r"Slurm does not answer: .*Unable to contact slurm controller$"):
        cluster_arguments("slurm")


def test_a_missing_plug_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'--executor slurm: .*pip install "nnunet-attn\[slurm\]"'):
        cluster_arguments("slurm")


class TestProfiles:
    @pytest.fixture(autouse=True)
    def _slurm(self, commands: Path) -> None:
        _config(commands, "accounting_storage/slurmdbd", "300 sec")

    @pytest.mark.parametrize("named", [".", "config.yaml"])
    def test_a_folder_or_its_file_is_used_from_anywhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/config.yaml").write_text("jobs: 1\n")
        monkeypatch.chdir(tmp_path)
        assert cluster_arguments("slurm", Path("mine") / named)[3] == str(tmp_path / "mine" / named).removesuffix("/.")

    def test_a_name_that_snakemake_knows_stays_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".config/snakemake/ours").mkdir(parents=True)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.chdir(tmp_path)
        assert cluster_arguments("slurm", "ours")[2:4] == ["--profile", "ours"]

    def test_one_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        for wrong in ("nowhere", str(tmp_path / "nowhere")):
            with pytest.raises(InputError, match=rf"--profile {re.escape(wrong)}: there is no such folder.*; copy "):
                cluster_arguments("slurm", wrong)

    def test_a_folder_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"the folder has no config\.yaml; copy "):
            cluster_arguments("slurm", tmp_path)


class TestRestartCount:
    @pytest.fixture(autouse=True)
    def _requeued(self, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _script(commands, "squeue", 'case "$*" in *--jobs=7*RestartCnt*) echo "2   ";; *) exit 1;; esac')
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        # what the function sets goes with the test
        monkeypatch.setattr(os, "environ", dict(os.environ))

    def test_is_asked_for_in_a_job(self) -> None:
        os.environ["SLURM_JOB_ID"] = "7"
        keep_restart_count()
        assert os.environ["SLURM_RESTART_COUNT"] == "2"

    def test_stays_as_it_is(self) -> None:
        os.environ.update(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
        keep_restart_count()
        assert os.environ["SLURM_RESTART_COUNT"] == "1"

    @pytest.mark.parametrize("job", [None, "8"])
    def test_is_left_out_where_nobody_knows(self, job: str | None) -> None:
        os.environ.update({} if job is None else {"SLURM_JOB_ID": job})
        keep_restart_count()
        assert "SLURM_RESTART_COUNT" not in os.environ


def test_the_shipped_profile_speaks_of_the_workflows_rules() -> None:
    profile = yaml.safe_load((PROFILES / "slurm/config.yaml").read_text(encoding="utf-8"))
    workflow = (PROFILES.parent / "workflow/Snakefile").read_text(encoding="utf-8")
    rules = set(re.findall(r"^rule (\w+):", workflow, re.MULTILINE)) - {"everything"}
    local = set(re.findall(r"^    (\w+),$", workflow.partition("localrules:")[2].partition("\n\n")[0], re.MULTILINE))
    assert set(profile["set-resources"]) == set(profile["set-threads"]) == rules - local
    assert profile["retries"] == 2
    assert profile["slurm-requeue"] is True
    on_a_gpu = {name for name, asked in profile["set-resources"].items() if asked.get("gpu")}
    assert on_a_gpu == {"pretrain", "train", "predict_test"}
    assert all({"mem_mb", "runtime"} <= set(asked) for asked in profile["set-resources"].values())
