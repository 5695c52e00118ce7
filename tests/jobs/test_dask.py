"""Slices of a manifest on the workers of a real Dask scheduler."""

import signal
import threading

import pytest

from jobs.cluster import Cluster, contents, unfinished

distributed = pytest.importorskip("distributed")

# Its processes warn of each other when they end.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def workers(break_tasks):
    """A scheduler and two workers of one thread each, which break what the test says."""
    started = []

    def start(*faults: str):
        break_tasks(*faults)
        options = {"host": "127.0.0.1", "dashboard_address": None, "threads_per_worker": 1}
        started.append(distributed.LocalCluster(n_workers=2, processes=True, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def cluster(tmp_path, capsys) -> Cluster:
    """Four participants."""
    return Cluster(tmp_path, capsys).add(*(f"{n:02}" for n in range(4)))


def submit(cluster: Cluster, workers, *words: object) -> tuple[int, str]:
    address = workers.scheduler_address
    return cluster.run("--cluster", "dask", "--scheduler-address", address, "--array-size", 2, *words)


def test_workers_make_what_a_local_run_makes(cluster, workers):
    dask = workers()
    code, said = submit(cluster, dask)
    assert code == 0, said
    assert "4 participants: 0 done, 4 to do; 2 tasks" in said
    assert "2 tasks: 2 done" in said
    assert (cluster.out / "index.html").is_file()
    assert cluster.jobs()[0] == 0
    local = cluster.folder / "local"
    assert cluster.run(out=local)[0] == 0
    assert contents(cluster.out) == contents(local)
    assert "4 done, 0 to do" in submit(cluster, dask)[1]


def test_task_that_is_killed_is_named_and_done_by_a_rerun(cluster, workers):
    dask = workers("hold:sub-03")

    def kill():
        cluster.wait_for_marks("03")
        cluster.kill(1)

    thread = threading.Thread(target=kill)
    thread.start()
    code, said = submit(cluster, dask)
    thread.join()
    assert code == 75, said
    # The one before may still have been on its way to the disk.
    hit = unfinished(said)
    assert {"03"} <= hit <= {"02", "03"}
    dask.close()
    assert f"{4 - len(hit)} done, {len(hit)} to do" in submit(cluster, workers())[1]


def test_interrupt_ends_the_tasks(cluster, workers):
    dask = workers("hold:sub-00")

    def interrupt():
        cluster.wait_for_marks("00")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, _ = submit(cluster, dask, "--on-interrupt", "cancel")
    thread.join()
    assert code == 130
    # Forks end a moment after what they are of.
    cluster.wait_until(lambda: not list(cluster.processes()), seconds=5)
    code, report = cluster.jobs()
    assert code == 75
    assert "00" in unfinished(report)


def test_what_does_not_go_together(cluster):
    code, said = cluster.run("--cluster", "dask")
    assert (code, "--scheduler-address" in said) == (64, True)
    address = ("--cluster", "dask", "--scheduler-address", "tcp://127.0.0.1:9")
    code, said = cluster.run(*address, "--gres", "gpu:1")
    assert (code, "--gres is for SLURM" in said) == (64, True)


def test_scheduler_that_does_not_answer(cluster, monkeypatch):
    monkeypatch.setattr("brainchop_pipe.workflows.cluster_dask._PATIENCE_SECONDS", 1)
    code, said = cluster.run("--cluster", "dask", "--scheduler-address", "tcp://127.0.0.1:9")
    assert code == 69
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in said
