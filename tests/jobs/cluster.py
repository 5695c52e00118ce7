"""A dataset on a cluster, and what tests do with the two."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from brainchop_pipe.cli.main import main
from conftest import head_affine, head_voxels, make_card, save

# A task has memory for one image at a time: where two are at work, which comes first is open.
ROOM_FOR_ONE = "--sbatch-args=--mem=2500M"


class Cluster:
    """A cluster with a dataset: run the app on it, and look at what it does."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.bids, self.out = folder / "bids", folder / "out"
        grid = {"shape": [48, 48, 48], "spacing_mm": [4.5] * 3, "orientation": "RAS"}
        card = make_card(folder / "cards", "regions", input={"intensity": {"method": "minmax"}, "grid": grid})
        # One library whatever memory a task has: its numbers are compared.
        self.models = ("--models", str(card), "--device", "cpu", "--skip-bids-validation")
        self.bids.mkdir()
        (self.bids / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.11.1"}')
        self.marks = folder / "marks"
        self.marks.mkdir()

    def add(self, *labels: str) -> Self:
        for label in labels:
            save(self.bids / f"sub-{label}/anat/sub-{label}_T1w.nii.gz", head_voxels(), head_affine())
        return self

    def run(self, *words: object, out: Path | None = None) -> tuple[int, str]:
        """Run the participant level; gives exit code and all that it said."""
        command = (self.bids, out or self.out, "participant", *self.models, "--nprocs", 1, *words)
        code = main([str(word) for word in command])
        said = self.capsys.readouterr()
        return code, said.out + said.err

    def submit(self, *words: object) -> tuple[int, str]:
        own = any("--sbatch-args" in str(word) for word in words)
        return self.run("--cluster", "slurm", *words, *(() if own else (ROOM_FOR_ONE,)))

    def jobs(self, *words: object) -> tuple[int, str]:
        """Tell what became of the jobs."""
        code = main(["jobs", str(self.out), *map(str, words)])
        return code, self.capsys.readouterr().out

    def wait_for_marks(self, *images: str) -> None:
        """Wait until tasks are in the midst of these images."""
        self.wait_until(lambda: {f"sub-{i}_T1w" for i in images} <= {p.name for p in self.marks.iterdir()})

    def wait_until(self, is_so: Callable[[], bool], seconds: int = 100) -> None:
        for _ in range(20 * seconds):
            if is_so():
                return
            time.sleep(0.05)
        raise TimeoutError(self.jobs()[1])

    def release(self, *images: str) -> None:
        for mark in [self.marks / f"sub-{i}_T1w" for i in images] or list(self.marks.iterdir()):
            mark.unlink(missing_ok=True)

    @property
    def folder_of_jobs(self) -> Path:
        """Folder of the last submission."""
        return max((self.out / ".brainchop" / "cluster").iterdir())

    @property
    def array(self) -> str:
        """Number of the last array."""
        return json.loads((self.folder_of_jobs / "submission.json").read_text())["arrays"][0]["job"]

    def processes(self, slice_: int | None = None) -> Iterator[int]:
        """Processes of the last submission's tasks, or of one; forks are called like what they are of."""
        manifest = str(self.folder_of_jobs / "manifest.tsv")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if manifest in words and slice_ in (None, int(words[words.index("--manifest-slice") + 1])):
                yield int(path.parent.name)

    def kill(self, slice_: int) -> None:
        """Kill a task's first process as the system does; the others end for want of it."""
        processes = set(self.processes(slice_))
        for process in processes:
            # Where SLURM ends them as well, one may be gone.
            with suppress(FileNotFoundError, ProcessLookupError):
                if parent_of(process) not in processes:
                    os.kill(process, signal.SIGKILL)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def contents(output_dir: Path) -> dict[str, object]:
    """All images, tables and sidecars of participants, but for what sidecars tell of times and memory."""
    found: dict[str, object] = {}
    for path in sorted(p for p in output_dir.glob("sub-*/**/*") if p.is_file()):
        content: object = path.read_bytes()
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            for key in ("StartTime", "EndTime", "StageSeconds", "PeakMemoryMB"):
                content["Provenance"].pop(key)
        found[str(path.relative_to(output_dir))] = content
    return found


def unfinished(report: str) -> set[str]:
    """Participants that a report says were not finished."""
    return {
        label
        for names in re.findall("not finished: (.*)", report)
        for label in re.findall(r"sub-(\w+)", names)
    }


def cause(report: str, label: str) -> str:
    """What a report says ended the task of a participant."""
    line = next(line for line in report.splitlines() if f"sub-{label}" in line)
    return line.partition(": ")[2].partition(";")[0]
