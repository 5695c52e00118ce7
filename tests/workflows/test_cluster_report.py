"""What became of tasks, by SLURM's words and by what the tasks left; without a SLURM."""

import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
from brainchop_pipe.workflows import cluster_slurm as slurm
from brainchop_pipe.workflows.cluster_manifest import write_manifest
from brainchop_pipe.workflows.cluster_record import (
    ArrayJob,
    FinishedImage,
    Submission,
    TaskFile,
    last_submission,
    new_submission,
    submission_folder,
    write_submission,
)
from brainchop_pipe.workflows.cluster_report import TaskReport, participants_at_work, report_tasks

from brainchop_pipe.cli.main import main
from brainchop_pipe.errors import ClusterError, MissingInputError, OutputError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A submission of three tasks in two arrays; two participants a task."""
    folder = new_submission(tmp_path / "out", [["1", "2"], ["3", "4"], ["5", "6"]])
    arrays = [ArrayJob(job="7", first_slice=0, tasks=2), ArrayJob(job="8", first_slice=2, tasks=1)]
    write_submission(folder, Submission(submitted="now", limit_seconds=600, arrays=arrays, group_job="9"))
    return folder


@pytest.fixture
def answers(monkeypatch) -> dict[str, str]:
    """What SLURM's commands print; a command that is missing fails."""
    given: dict[str, str] = {"squeue": "", "sbatch": "", "sacct": ""}
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name if name in given else None)

    def run(command, **_):
        if command[0] not in given:
            raise FileNotFoundError
        text = given[command[0]]
        failed = text.startswith("error")
        return subprocess.CompletedProcess(command, int(failed), "" if failed else text, text)

    monkeypatch.setattr(slurm.subprocess, "run", run)
    return given


def finish(
    folder: Path, slice_: int, *labels: str, end: int | None = 0, seconds: int = 5, **failed: str
) -> None:
    """Leave what a task leaves that finished these participants."""
    task = TaskFile(folder, slice_)
    task.record.images = {f"sub-{2 * slice_ + n}": 1 for n in (1, 2)}
    task.record.finished = [
        FinishedImage(participant=f"sub-{label}", image=f"sub-{label}_T1w", failed=failed) for label in labels
    ]
    task.record.started = "2026-01-01T00:00:00Z"
    if end is not None:
        task.record.ended, task.record.exit_code = f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}Z", end
    task.save()


def hit(folder: Path) -> dict[int, tuple[str, tuple[str, ...]]]:
    return {t.slice: (t.cause, t.unfinished) for t in report_tasks(folder) if t.status == "hit"}


def test_slurm_says_what_ended_a_task(folder, answers):
    finish(folder, 0, "1", end=130)
    finish(folder, 1, "3", "4")
    answers["sacct"] = (
        "7_0|OUT_OF_MEMORY\n7_1|COMPLETED\n7_1.batch|COMPLETED\n8_0|CANCELLED by 0\n9|COMPLETED\n"
    )
    assert hit(folder) == {0: ("out of memory", ("2",)), 2: ("cancelled", ("5", "6"))}


def test_controller_knows_better_than_the_accounting(folder, answers):
    answers["sacct"] = "7_0|RUNNING\n7_1|RUNNING\n8_0|NODE_FAIL\n"
    answers["squeue"] = "7|0|RUNNING\n7|1|PENDING\n8|0|PENDING\n"
    assert [task.status for task in report_tasks(folder)] == ["running", "waiting", "waiting"]
    assert participants_at_work(folder.parents[2]) == {"1", "2", "3", "4", "5", "6"}


@pytest.mark.parametrize(
    ("left", "cause"),
    [
        ({"end": None}, "killed without a warning: out of memory, or its node failed"),
        ({"end": 130}, "cancelled or preempted"),
        ({"end": 130, "seconds": 590}, "out of time"),
        ({"end": 73}, "ended with exit code 73; its log says why"),
    ],
)
def test_tasks_say_what_ended_them_where_slurm_has_forgotten(folder, answers, left, cause):
    del answers["sacct"]
    answers["squeue"] = "error: Invalid job id specified"
    finish(folder, 0, "1", **left)
    finish(folder, 1, "3", "4")
    assert hit(folder) == {
        0: (cause, ("2",)),
        2: ("never started: cancelled, or its node failed", ("5", "6")),
    }
    assert participants_at_work(folder.parents[2]) == set()


def test_second_go_makes_up_for_the_first(folder, answers):
    finish(folder, 0, "1", end=None)
    finish(folder, 0, "1", "2")
    task = report_tasks(folder)[0]
    assert (task.status, task.goes) == ("done", 2)


def test_failed_images_are_no_fault_of_the_task(folder, answers):
    finish(folder, 0, "1", "2", end=75, made_mask="is empty", made_tissue="is empty")
    task = report_tasks(folder)[0]
    assert isinstance(task, TaskReport)
    assert task.status == "done"
    assert task.failed == {n: "made_mask, made_tissue: is empty" for n in ("1", "2")}


def test_command_tells_all_by_name(folder, answers, capsys):
    finish(folder, 0, "1", end=130)
    finish(folder, 1, "3", "4", end=75, made_mask="is empty")
    (folder / "tasks" / "9-x.json").write_text("{")
    assert main(["jobs", str(folder.parents[2])]) == 75
    said = capsys.readouterr().out
    assert "3 tasks: 1 done, 0 running, 0 waiting, 2 hit; 3 of 6 participants finished" in said
    assert "task 0: cancelled or preempted; not finished: sub-2\n" in said
    assert "sub-3: made_mask: is empty" in said


def test_controller_that_does_not_answer_is_an_error(folder, answers, capsys):
    answers["squeue"] = "error: Unable to contact slurm controller"
    with pytest.raises(ClusterError, match=r"Unable to contact.*try again later"):
        report_tasks(folder)
    assert main(["jobs", str(folder.parents[2])]) == 69


def test_manifest_from_elsewhere_has_a_folder_of_its_own(tmp_path, answers):
    write_manifest(tmp_path / "mine.tsv", [["1", "2"]])
    folder = submission_folder(tmp_path / "out", tmp_path / "mine.tsv")
    assert folder.name.startswith("mine-")
    finish(folder, 0, "1", end=None)
    write_manifest(folder / "manifest.tsv", [["1", "2"]])
    assert hit(folder) == {0: ("killed without a warning: out of memory, or its node failed", ("2",))}
    assert last_submission(tmp_path / "out") == folder
    with pytest.raises(MissingInputError, match="has no jobs"):
        last_submission(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        TaskFile(tmp_path / "file", 0)


def test_time_limits_are_read_as_slurm_writes_them(answers):
    for text, seconds in (("29:00", 1740), ("1-02:00:30", 93630), ("UNLIMITED", None), ("", None)):
        answers["squeue"] = f"{text}\n"
        assert slurm.time_limit_seconds("7") == seconds
    answers["scontrol"] = "SchedulerType = x\nMaxArraySize            = 51\n"
    assert slurm.max_array_size() == 51


def test_machine_without_slurm_says_what_to_do(dataset, tmp_path, cards, monkeypatch, capsys):
    monkeypatch.setattr(slurm.shutil, "which", lambda _: None)
    words = [str(dataset), str(tmp_path / "out"), "participant", "--models", cards.regions, "--cluster"]
    assert main([*words, "slurm"]) == 69
    assert "--cluster plan" in capsys.readouterr().err
    manifest = tmp_path / "m.tsv"
    assert main([*words, "plan", "--manifest", str(manifest), "--skip-bids-validation"]) == 0
    assert "3 participants: 0 done, 3 to do; 1 tasks" in capsys.readouterr().out
    assert manifest.read_text() == "slice\tparticipant_id\n0\tsub-01\n0\tsub-02\n0\tsub-03\n"


@pytest.mark.parametrize(("answer", "cancels"), [("y", True), ("n", False), ("", False)])
def test_interrupt_asks_what_becomes_of_the_jobs(folder, answers, monkeypatch, capsys, answer, cancels):
    cancelled = []
    monkeypatch.setattr(slurm, "cancel", lambda jobs: cancelled.append(list(jobs)))
    monkeypatch.setattr(slurm, "active_tasks", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["jobs", str(folder.parents[2]), "--wait"]) == 130
    assert cancelled == ([["7", "8", "9"]] if cancels else [])


@pytest.mark.parametrize(
    "words",
    [
        ("participant", "--cluster", "slurm", "--manifest-slice", "0", "--manifest", "m"),
        ("participant", "--cluster", "plan"),
        ("participant", "--manifest", "m"),
        ("participant", "--manifest-slice", "1"),
        ("participant", "--array-size", "0"),
        ("participant", "--task-minutes", "0"),
        ("participant", "--manifest", "m", "--manifest-slice", "-1"),
        ("group", "--cluster", "slurm"),
        ("group", "--manifest-slice", "0"),
    ],
)
def test_wrong_usage_is_refused(dataset, tmp_path, words):
    assert main([str(dataset), str(tmp_path / "out"), *words]) == 64
    assert not (tmp_path / "out").exists()
