"""Job arrays in a real SLURM: what comes out, whom faults hit, what a rerun does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from brainchop_pipe.workflows import cluster_slurm

from brainchop_pipe.cli.main import main
from conftest import REPOSITORY
from jobs.cluster import ROOM_FOR_ONE, Cluster, cause, contents, slurm, unfinished

pytestmark = [pytest.mark.slurm, pytest.mark.shared]


def check_rerun(cluster: Cluster, todo: str) -> None:
    """Give the command again, and compare with a run that no cluster had a part in."""
    code, said = cluster.submit("--array-size", 2, "--wait")
    assert code == 0, said
    assert todo in said
    local = cluster.folder / "local"
    assert cluster.run(out=local)[0] == 0
    assert contents(cluster.out) == contents(local)


def test_array_makes_what_a_local_run_makes(cluster):
    check_rerun(cluster, "8 participants: 0 done, 8 to do; 2 tasks")
    assert (cluster.out / "index.html").is_file()
    assert len(list((cluster.out / "prov").glob("*_act.json"))) == 1
    assert not list((cluster.out / ".brainchop" / "work").iterdir())
    assert "8 done, 0 to do" in cluster.submit()[1]


def test_tasks_leave_the_root_to_the_planner(cluster, break_tasks):
    break_tasks("hold:sub-00")
    cluster.submit("--array-size", 2)
    cluster.wait_for_marks("00")
    files = [p for p in cluster.out.iterdir() if p.is_file() and p.suffix != ".html"]
    planned = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}
    assert planned.keys() == {".bidsignore", "README.md", "dataset_description.json", "morph.json"}
    cluster.release()
    assert cluster.jobs("--wait")[0] == 0
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in files} == planned


def test_faults_hit_their_own_participants_and_a_rerun_does_only_those(cluster, break_tasks):
    break_tasks("hold:sub-0", "eat:sub-05")
    cluster.submit("--array-size", 4, "--sbatch-args=--mem=2500M")
    cluster.wait_for_marks("00", "02", "04", "06")
    slurm("scancel", f"{cluster.array}_0")
    cluster.kill(1)
    cluster.release("04", "06")
    cluster.wait_for_marks("07")
    cluster.release("07")
    code, report = cluster.jobs("--wait")
    assert code == 75, report
    assert unfinished(report) == {"00", "01", "02", "03", "05"}
    assert cause(report, "00") == "cancelled"
    break_tasks()
    check_rerun(cluster, "8 participants: 3 done, 5 to do")


def test_participants_at_work_are_not_submitted_twice(cluster, break_tasks):
    break_tasks("hold:sub-00", "hold:sub-04")
    cluster.submit("--array-size", 2)
    cluster.wait_for_marks("00", "04")
    slurm("scancel", f"{cluster.array}_1")
    cluster.wait_until(lambda: "1 hit" in cluster.jobs()[1])
    break_tasks()
    code, said = cluster.submit()
    assert code == 0
    assert "8 participants: 0 done, 4 to do, 4 in jobs that are at work; 1 tasks" in said
    cluster.release()
    assert cluster.jobs("--wait")[0] == 0
    cluster.wait_until(
        lambda: not list(cluster.out.glob("sub-*/anat/.*")) and "8 done" in cluster.submit()[1]
    )


@pytest.mark.parametrize(("choice", "left"), [("cancel", False), ("leave", True)])
def test_interrupt_while_waiting(cluster, break_tasks, choice, left):
    break_tasks("hold:sub-0")
    words = (cluster.bids, cluster.out, "participant", *cluster.models, "--nprocs", "1", "--cluster", "slurm")
    command = [sys.executable, "-m", "brainchop_pipe.cli.main", *map(str, words), "--wait", ROOM_FOR_ONE]
    with subprocess.Popen([*command, "--on-interrupt", choice], stdout=subprocess.PIPE, text=True) as process:
        try:
            cluster.wait_for_marks("00")
        finally:
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    assert ("Left job" if left else "Cancelled job") in said
    if left:
        assert cluster_slurm.active_tasks([cluster.array])
        slurm("scancel", cluster.array)
    assert unfinished(cluster.jobs("--wait")[1]) == {f"{n:02}" for n in range(8)}


def test_arrays_stay_within_the_site(bare_cluster, monkeypatch):
    assert cluster_slurm.max_array_size() == 1001
    monkeypatch.setattr(cluster_slurm, "max_array_size", lambda: 3)
    code, said = bare_cluster.submit("--array-size", 4, "--array-limit", 2, "--wait")
    assert code == 0, said
    assert "4 tasks: 4 done" in said
    manifest = (bare_cluster.folder_of_jobs / "manifest.tsv").read_text()
    assert manifest == "slice\tparticipant_id\n" + "".join(f"{n}\tsub-0{n}\n" for n in range(4))
    assert len((bare_cluster.folder_of_jobs / "submission.json").read_text().split('"job"')) == 1 + 2


def test_site_without_accounting_tells_who_was_hit(bare_cluster, break_tasks):
    break_tasks("hold:sub-0")
    bare_cluster.submit("--array-size", 4)
    bare_cluster.wait_for_marks("00", "01", "02", "03")
    slurm("scancel", f"{bare_cluster.array}_0")
    bare_cluster.kill(2)
    bare_cluster.release("01", "03")
    code, report = bare_cluster.jobs("--wait")
    assert code == 75
    assert unfinished(report) == {"00", "02"}
    assert cause(report, "00") == "cancelled"
    assert "killed without a warning" in cause(report, "02")


def test_options_that_the_site_refuses_leave_nothing_in_the_queue(cluster):
    code, said = cluster.submit("--sbatch-args=--partition=none")
    assert code == 69
    assert "invalid partition" in said.lower()
    assert "--sbatch-args" in said
    assert slurm("squeue", "-h") == ""


def test_script_of_a_site_runs_the_slices_of_a_manifest(cluster, monkeypatch):
    manifest = cluster.folder / "manifest.tsv"
    code, said = cluster.run("--cluster", "plan", "--manifest", manifest, "--array-size", 2)
    assert code == 0
    assert "as an array of 0-1" in said
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    script = REPOSITORY / "containers" / "brainchop.sbatch"
    own = ("--cpus-per-task=1", "--mem=3G", "--time=10", f"--output={cluster.folder}/%a.log")
    options = ("--wait", "--array=0-1", *own)
    slurm(
        "sbatch", *options, str(script), str(cluster.bids), str(cluster.out), str(manifest), *cluster.models
    )
    code, report = cluster.jobs()
    assert code == 0, report
    assert "2 tasks: 2 done" in report
    assert main([str(cluster.bids), str(cluster.out), "group"]) == 0
