"""What takes minutes: every fault in one array, a node that dies, and real heads with the default models."""

import shutil
import subprocess

import pytest

from jobs.cluster import Cluster, cause, contents, slurm, unfinished

pytestmark = [pytest.mark.slurm, pytest.mark.shared, pytest.mark.slow]


def add_heads(cluster: Cluster, heads, *labels: str) -> None:
    for label in labels:
        shutil.copytree(heads / f"sub-{label}", cluster.bids / f"sub-{label}")


def set_node_down(cluster: Cluster, slice_: int) -> str:
    """Take the node of a task away, with all that runs of the task."""
    node = slurm("squeue", "-h", "-j", f"{cluster.array}_{slice_}", "-o", "%N").strip()
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.kill(slice_)
    return node


def bring_back(node: str) -> None:
    """Let SLURM have a node again; it may have come back by itself."""
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], capture_output=True)


@pytest.fixture
def large_cluster(with_accounting, monkeypatch, tmp_path, capsys, shared) -> Cluster:
    """Forty made participants and two real ones; sorted, the real ones come last."""
    monkeypatch.setenv("SLURM_CONF", str(with_accounting))
    cluster = Cluster(tmp_path, capsys).add(*(f"{n:02}" for n in range(40)))
    add_heads(cluster, shared / "data" / "heads", "oblique", "xa30")
    return cluster


def test_every_fault_hits_its_own_participants(large_cluster, break_tasks):
    """Seven tasks of six participants; the third of five tasks has a fault."""
    cluster = large_cluster
    break_tasks("hold:sub-02", "hold:sub-08", "eat:sub-14", "hold:sub-20", "hold:sub-26")
    code, said = cluster.submit("--array-size", 7, "--sbatch-args=--mem=2500M --no-requeue")
    assert code == 0, said
    cluster.wait_for_marks("02", "08", "20")
    slurm("scontrol", "update", f"JobId={cluster.array}_3", "TimeLimit=1")
    slurm("scancel", f"{cluster.array}_0")
    cluster.kill(1)
    cluster.wait_for_marks("26")
    cluster.wait_until(lambda: "out of time" in cluster.jobs()[1], seconds=200)
    cluster.wait_until(lambda: "2 done, 1 running" in cluster.jobs()[1])
    node = set_node_down(cluster, 4)
    bring_back(node)
    code, report = cluster.jobs("--wait")
    assert code == 75
    hit = {f"{first + n:02}" for first in (0, 6, 12, 18, 24) for n in range(2, 6)}
    assert unfinished(report) == hit
    causes = [cause(report, label) for label in ("02", "08", "14", "20", "26")]

    assert causes[0] == "cancelled"
    assert causes[1].startswith("killed without a warning")
    assert causes[3:] == ["out of time", "its node failed"]
    break_tasks()
    code, said = cluster.submit("--array-size", 3, "--wait")
    assert code == 0, said
    assert f"42 participants: {42 - len(hit)} done, {len(hit)} to do" in said
    assert cluster.run(out=cluster.folder / "local")[0] == 0
    assert contents(cluster.out) == contents(cluster.folder / "local")


def test_task_goes_on_after_its_node_died(cluster, break_tasks):
    break_tasks("hold:sub-05")
    cluster.submit("--array-size", 2)
    cluster.wait_for_marks("05")
    bring_back(set_node_down(cluster, 1))
    # Its second go meets the same image.
    cluster.release()
    cluster.wait_for_marks("05")
    cluster.release()
    code, report = cluster.jobs("--wait")
    assert code == 0, report
    assert "task 1: done, started 2 times" in report
    assert "8 of 8 participants finished" in report


def test_two_heads_by_the_default_models(with_accounting, monkeypatch, tmp_path, capsys, shared):
    monkeypatch.setenv("SLURM_CONF", str(with_accounting))
    monkeypatch.setenv("BRAINCHOP_MODEL_MIRROR", str(shared / "models"))
    cluster = Cluster(tmp_path, capsys)
    add_heads(cluster, shared / "data" / "heads", "ecog", "xa30")
    cluster.models = ("--device", "cpu", "--skip-bids-validation")
    # Memory as the plan has it: these networks need more than made ones.
    code, said = cluster.submit("--array-size", 2, "--sbatch-args=", "--wait")
    assert code == 0, said
    assert cluster.run(out=tmp_path / "local")[0] == 0
    assert contents(cluster.out) == contents(tmp_path / "local")
    assert not list((cluster.out / ".brainchop" / "work").iterdir())
