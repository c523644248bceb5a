"""Requests of the launchers to SLURM and Ray, jobs in remote processes, and the trials requested from Optuna."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.runs import process
from kdlab.sweeps import expansion, job_logs, sweep
from kdlab.sweeps import optuna as optunasearch
from kdlab.sweeps.expansion import Expansion
from kdlab.sweeps.launchers import remote, slurm
from kdlab.sweeps.launchers.ray import Ray
from kdlab.sweeps.launchers.remote import RemoteJob

TASKS = ["+exp=adads_finetune", "hydra/launcher=submitit_slurm"]


def launcher(*given: str) -> tuple[slurm.Submitit, list[expansion.SweepJob]]:
    whole = Expansion([*TASKS, *given], [])
    return sweep._instance("launcher", whole.settings("launcher").launcher), expansion.jobs(whole, {})


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder whose `sbatch` takes a job and whose `sacct` reports a timeout."""
    said = {
        "srun": "exit 0",
        "sbatch": "echo Submitted batch job 4711",
        "scancel": f"echo $@ > {tmp_path}/cancelled",
        "sacct": "echo 'JobID|State|NodeList'; echo '4711_0|TIMEOUT|n1'; echo '4711_1|RUNNING|n2'",
    }
    for name, line in said.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    # submitit waits so long for what a slow file system may bring
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    return tmp_path


def test_slurm_is_asked_for_what_a_job_uses(cluster):
    given = ["seed=1,2", "trainer.devices=4", "trainer.num_nodes=2", "hydra.launcher.settings.partition=gpu",
             "hydra.launcher.settings.timeout_min=90", "hydra.launcher.array_parallelism=1",
             "+hydra.launcher.settings.additional_parameters.reservation=night"]  # fmt: skip
    made, found = launcher(*given)
    made.prepare(found, "mine-1234")
    begun = made.begin(found)
    assert [job for job, _ in begun] == found
    (script,) = {file.resolve() for file in cluster.rglob("*submission*.sh")}  # one under two names
    lines = set(script.read_text().splitlines())
    assert lines >= {
        "#SBATCH --array=0-1%1", "#SBATCH --job-name=mine-1234", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4", "#SBATCH --partition=gpu", "#SBATCH --time=90", "#SBATCH --signal=USR2@120",
        "#SBATCH --reservation=night",
    }  # fmt: skip
    assert any(line.startswith("srun ") and sys.executable in line and "submitit" in line for line in lines)
    home = found[0].folder.parent
    assert script.is_relative_to(cluster / home / ".submitit")
    timed_out, running = (handle for _, handle in begun)
    assert timed_out.poll() == 1 and "TIMEOUT" in timed_out.why
    assert running.poll() is None and running.state == "running"
    running.stop(signal.SIGINT)
    assert "4711_1" in (cluster / "cancelled").read_text()


def test_jobs_of_different_size_are_arrays_of_their_own(cluster):
    made, found = launcher("trainer.devices=1,2", "seed=1,2", "trainer.accelerator=cpu")
    made.prepare(found, "mine")
    assert {job.config.trainer.devices: made.resources(job) for job in found} == {
        1: {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0},
        2: {"nodes": 1, "tasks_per_node": 2, "gpus_per_node": 0},
    }
    begun = made.begin(found)
    assert {job.number for job, _ in begun} == {0, 1, 2, 3}
    assert [job.config.trainer.devices for job, _ in begun] == [1, 1, 2, 2]


def test_what_slurm_cannot_be_told_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    made, found = launcher()
    with pytest.raises(UserError, match="no sbatch and srun here"):
        made.prepare(found, "mine")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'kdlab\[submitit\]'"):
        made.prepare(found, "mine")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'kdlab\[ray\]'"):
        Ray().prepare(found, "mine")
    with pytest.raises(UserError, match="slurm or local"):
        slurm.Submitit("moon")


def test_tasks_of_a_job_are_ranks_as_torchrun_would_have_them():
    here = SimpleNamespace(num_tasks=4, global_rank=3, local_rank=1, node=1, num_nodes=2, hostnames=["n7", "n8"], job_id="4711_2")  # fmt: skip
    assert slurm.ranks_of(here) == {
        "RANK": "3", "LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n7",
        "MASTER_PORT": str(20000 + 47112 % 20000),
    }  # fmt: skip
    assert slurm.ranks_of(SimpleNamespace(num_tasks=1)) == {}


def test_submitit_brings_back_the_exit_code_and_the_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(process.__file__).resolve().parents[2]))
    (job,) = expansion.jobs(Expansion(["+exp=adads_finetune"], []), {})
    wrong = dataclasses.replace(job, overrides=("selct=random",))
    made = slurm.Submitit("local", array_parallelism=1)
    made.prepare([wrong], "mine")
    ((_, handle),) = made.begin([wrong])
    assert made.begin([wrong]) == []  # there is room for one
    while handle.poll() is None:
        time.sleep(0.1)
    assert handle.poll() == 2 and not handle.why
    assert job_logs.first_error(wrong.log, 0, 2).startswith("unknown key selct")
    assert not wrong.folder.exists() and (job.folder.parent / ".submitit").is_dir()


@pytest.fixture
def shell(monkeypatch):
    """A distant job is a shell line, its first override."""

    def spawn(overrides, environment, held, output, where=None):
        return subprocess.Popen(
            ["sh", "-c", overrides[0]], env=environment, cwd=where, pass_fds=held, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip

    monkeypatch.setattr(process, "spawn", spawn)


def distant(folder: Path, line: str) -> RemoteJob:
    return RemoteJob((line,), folder / "run", folder / "run.log", folder, {"KDLAB_SWEEP": "mine"})


def test_a_distant_job_is_no_task_of_slurms_and_holds_its_folder(tmp_path, shell, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    job = distant(tmp_path, "echo $KDLAB_SWEEP ${SLURM_NTASKS-none} $RANK $PWD; ls -A run; exit 3")
    assert job.run({"RANK": "0"}) == 3
    said = (tmp_path / "run.log").read_text().split()
    assert said[:4] == ["mine", "none", "0", str(tmp_path)] and any(name.endswith(".lock") for name in said)
    assert not list(tmp_path.rglob("*.lock"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text('{"status": "finished"}')
    assert job.run({}) == 0  # skipped


def test_a_distant_job_is_told_to_save_by_sigterm_and_not_by_what_slurm_sends(tmp_path, shell):
    line = "trap 'echo saved; exit 143' TERM; kill -USR2 $$; echo here; while :; do sleep 0.05; done"
    for stop in (lambda job: os.kill(os.getpid(), signal.SIGTERM), lambda job: job.save()):
        job = distant(tmp_path, line)
        thread = threading.Thread(target=_when_here, args=(tmp_path / "run.log", lambda job=job, stop=stop: stop(job)))
        thread.start()
        assert job.run({}, signal.SIGUSR2) == 143
        thread.join()
        said = (tmp_path / "run.log").read_text().split()
        assert said[0] == "here" and said[-1] == "saved"
        (tmp_path / "run.log").unlink()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def _when_here(log: Path, then) -> None:
    while not (log.exists() and "here" in log.read_text()):
        time.sleep(0.02)
    then()


def test_a_distant_job_can_be_sent():
    import pickle

    job = pickle.loads(pickle.dumps(distant(Path("x"), "true")))
    assert isinstance(job, remote.RemoteJob) and job.folder == Path("x/run")


def test_sweeps_of_hydra_are_distributions_of_optuna():
    import optuna

    kinds = optuna.distributions
    wanted = {
        "select.ratio=interval(0.1,0.5)": kinds.FloatDistribution(0.1, 0.5),
        "optim.lr=tag(log,interval(1e-5,1e-3))": kinds.FloatDistribution(1e-5, 1e-3, log=True),
        "seed=int(interval(1,10))": kinds.IntDistribution(1, 10),
        "seed=range(1,8,3)": kinds.IntDistribution(1, 7, step=3),
        "select=random,adads": kinds.CategoricalDistribution(["random", "adads"]),
    }
    for line, distribution in wanted.items():
        (one,) = expansion.parsed([line])
        assert optunasearch._distribution(optuna, one) == distribution, line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["select.ratio=interval(0.1,1.5)"], "select.ratio=1.5"),
        (["select.ratio=0.1"], "no search space"),
        (["select.ratio=interval(0.1,0.5)", "hydra.sweeper.n_trials=0"], "n_trials=0: at least 1"),
        (["select.ratio=interval(0.1,0.5)", "hydra.sweeper.trials=9"], "did you mean n_trials"),
        (["select.ratio=interval(0.1,0.5)", "hydra.sweeper.direction=up"], "minimize, maximize or null"),
        (["select.ratio=interval(0.1,0.5)", "hydra.sweeper.sampler._target_=os.system"], "os.system"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(given, said, tmp_path, monkeypatch, capsys):
    from kdlab import run as entry

    monkeypatch.chdir(tmp_path)
    assert entry.main(["-m", "+exp=adads_finetune", "hydra/sweeper=optuna", *given]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_search_goes_on_where_values_do_not_go_together(capsys, monkeypatch):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (space,) = expansion.parsed(["select.ratio=interval(0.1,0.5)"])
    job = expansion.SweepJob(1, "select.ratio", Path("x"), (), Config())

    def proposed(number, lines):
        if number == 0:
            raise UserError("select.pool=8: too few")
        return dataclasses.replace(job, number=number), ""

    study, whole = optuna.create_study(), Expansion(["seed=1"], [])
    monkeypatch.setattr(whole, "job", proposed)
    trials = optunasearch.Trials(optuna, study, whole, [space], [], 3)
    assert [one.number for one in trials.first(2)] == [1, 2]
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING", "RUNNING"]
    assert capsys.readouterr().err == "kdlab: a trial is skipped: select.pool=8: too few\n"
    assert trials._new() == []  # three were wanted
