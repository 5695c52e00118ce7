"""What Pydra does when results vanish between a job's end and its next look."""

import asyncio
import shutil
from pathlib import Path

import pytest

from brainchop_pipe.engines.pydra_worker import run_segment
from conftest import head_affine, head_voxels, save


class LosingLane:
    """Runs jobs here, and loses the work folder as soon as the first is done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def run(self, function, *arguments, **_):
        result = function(*arguments)
        if self._folder.exists():
            shutil.rmtree(self._folder)
        return result


@pytest.mark.timeout(300)
def test_work_folder_lost_when_a_step_has_just_ended_fails_the_image(tmp_path, cards, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = save(tmp_path / "head_T1w.nii.gz", head_voxels(), head_affine())
    folder = tmp_path / "work"
    options = {"tissue_model": None, "prepare": "auto", "mask_model": None}
    made = asyncio.run(
        run_segment(LosingLane(folder), folder, in_file=image, models=[cards.regions], **options)
    )
    assert isinstance(made.labels[0], Exception)
    assert made.conform_seconds > 0
