"""Pictures of label maps on the head that they are of, as files for reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.images import read_image
from brainchop_pipe.report.content import OUTLINE_COLOR
from brainchop_pipe.storage import write_whole


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a label map are.

    Parameters
    ----------
    mosaic : Path
        Slices of three planes, with contours of all labels.
    thumbnail : Path
        One slice of each plane, with the outline of what was found.
    """

    mosaic: Path
    thumbnail: Path

    @classmethod
    def of(cls, output_dir: Path, label_map: Path) -> "Pictures":
        """Name the pictures of a label map: in the folder of its participant, whatever its session."""
        below = label_map.relative_to(output_dir).parts
        folder = output_dir / below[0] if len(below) > 1 else output_dir
        stem = label_map.name.removesuffix(".nii.gz")
        return cls(folder / "figures" / f"{stem}.png", folder / "figures" / f"{stem}_thumbnail.png")

    @property
    def are_there(self) -> bool:
        """Whether both were drawn."""
        return self.mosaic.is_file() and self.thumbnail.is_file()


def read_picture(path: Path) -> bytes | None:
    """Read a picture; None where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return None


@dataclass(frozen=True)
class PictureJob:
    """A label map to draw.

    Parameters
    ----------
    labels : Path
    mask : Path or None
        On the same grid; gets an outline.
    colors : mapping of int to str
        By label, ``#RRGGBB``.
    pictures : Pictures
    """

    labels: Path
    mask: Path | None
    colors: Mapping[int, str]
    pictures: Pictures


def draw_pictures(head: Path, jobs: list[PictureJob], prefer_affine: AffineChoice | None = None) -> None:
    """Draw label maps as they were written, on a head in the same world.

    Parameters
    ----------
    head : Path
        The image, or the conformed one that was made of it.
    jobs : list of PictureJob
    prefer_affine : {"sform", "qform"} or None
        Which one of the head to believe where the two contradict each other.
    """
    # After the networks: its libraries would hold up the first image.
    from brainchop_pipe.report.mosaic import THUMBNAIL, draw

    shown = read_image(head, prefer_affine, allow_constant=True).volume
    for job in jobs:
        labels = read_image(job.labels, allow_constant=True).volume
        mask = read_image(job.mask, allow_constant=True).volume if job.mask else None
        found = mask or Volume((labels.voxels > 0).astype(np.uint8), labels.grid)
        job.pictures.mosaic.parent.mkdir(parents=True, exist_ok=True)
        mosaic = draw(shown, labels, job.colors, mask=mask)
        write_whole(job.pictures.mosaic, mosaic, durable=False)
        thumbnail = draw(shown, found, {1: OUTLINE_COLOR}, THUMBNAIL)
        write_whole(job.pictures.thumbnail, thumbnail, durable=False)
