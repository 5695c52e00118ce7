"""Weights from the web, a mirror or the cache to ONNX bytes that are known to be the right ones."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from brainchop_pipe.errors import ChecksumError, MissingInputError
from brainchop_pipe.inference.card import ModelCard, WeightFile
from brainchop_pipe.storage import sha256_of_bytes, write_whole
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.convert import onnx_from_safetensors, onnx_from_tfjs
from brainchop_pipe.zoo.meshnet import MeshNetPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelStore:
    """Where ONNX files are kept, and where weights come from.

    Parameters
    ----------
    cache : Path
        Folder of ready ONNX files; it may be read-only when it holds what is needed.
        Any number of processes may use it at once.
    mirror : str or None
        Folder or URL laid out like the upstream repository, used in its place.
    """

    cache: Path
    mirror: str | None = None

    @classmethod
    def from_environment(cls) -> "ModelStore":
        """Read ``BRAINCHOP_MODEL_DIR`` (else the user's cache folder) and ``BRAINCHOP_MODEL_MIRROR``."""
        folder = os.environ.get("BRAINCHOP_MODEL_DIR")
        return cls(
            Path(folder) if folder else _user_cache(),
            os.environ.get("BRAINCHOP_MODEL_MIRROR") or None,
        )

    def path_of(self, model: Model) -> Path:
        """Give the place of a model's ONNX file, whether it is there or not."""
        weights = model.card.weights
        if weights.format == "onnx" and weights.base_url is None:
            return model.folder / weights.files[0].path
        return self.cache / f"{model.card.name}-{weights.onnx_sha256[:12]}.onnx"

    def load(self, model: Model) -> bytes:
        """Give a model's ONNX file, fetched and converted if need be.

        Raises
        ------
        ChecksumError
            A file is not the one that the card names.
        MissingInputError
            The weights are not in the cache and cannot be fetched.
        """
        path = self.path_of(model)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return self.pull(model)
        self._check(model, content)
        return content

    def pull(self, model: Model) -> bytes:
        """Fetch and convert a model anew, whatever the cache holds, and keep it there."""
        card = model.card
        if card.weights.base_url is None:
            contents = [self._beside_card(model, file) for file in card.weights.files]
        else:
            contents = [self._download(card, file) for file in card.weights.files]
        content = _as_onnx(card, contents)
        self._check(model, content)
        path = self.path_of(model)
        if path.parent != model.folder:
            self._keep(path, content)
        return content

    def _check(self, model: Model, content: bytes) -> None:
        expected, found = model.card.weights.onnx_sha256, sha256_of_bytes(content)
        if found != expected:
            raise ChecksumError(
                f"{self.path_of(model)} has SHA-256 {found}; the card of {model.card.name!r} wants "
                f"{expected}. Fetch it again with `brainchop models pull {model.card.name}`, "
                "or correct the card"
            )

    def _beside_card(self, model: Model, file: WeightFile) -> bytes:
        path = model.folder / file.path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise MissingInputError(
                f"weights {path} of model {model.card.name!r} are not there; "
                "put the file there or correct the path in the card"
            ) from None
        _check_weights(path.name, content, file)
        return content

    def _download(self, card: ModelCard, file: WeightFile) -> bytes:
        """Fetch one published file through pooch, which checks it and moves it into place whole."""
        # Imported here: pooch brings requests, and a run from a full cache needs neither.
        import pooch

        # It would announce each file on standard error; what is said is said by the command.
        pooch.get_logger().setLevel(logging.WARNING)
        base = (self.mirror or card.weights.base_url or "").removeprefix("file://").rstrip("/")
        downloads = self.cache / "downloads" / card.name
        try:
            path = pooch.retrieve(
                f"{base}/{file.path}",
                known_hash=f"sha256:{file.sha256}",
                fname=Path(file.path).name,
                path=downloads,
                downloader=None if "://" in base else _copy_from_folder,
            )
            return Path(path).read_bytes()
        except ValueError as error:
            raise ChecksumError(
                f"{base}/{file.path} is not the file that the card of {card.name!r} names: {error}"
            ) from error
        except OSError as error:
            raise MissingInputError(
                f"weights of model {card.name!r} are not in {self.cache} and cannot be fetched from "
                f"{base}: {error}. Without a network, point BRAINCHOP_MODEL_MIRROR at a copy of the "
                "upstream repository or BRAINCHOP_MODEL_DIR at a filled cache; a cache that has to "
                "be filled must be writable"
            ) from error

    def _keep(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content)
        except OSError as error:
            raise MissingInputError(
                f"cannot keep {path.name} in {path.parent}: {error}. "
                "Set BRAINCHOP_MODEL_DIR to a folder that can be written"
            ) from error
        logger.info("kept %s in %s", path.name, path.parent)


def _as_onnx(card: ModelCard, contents: list[bytes]) -> bytes:
    """Convert a model's weights, if they are not an ONNX file already."""
    if card.weights.format == "tfjs-layers":
        return onnx_from_tfjs(*contents)
    if card.weights.meshnet is not None:
        return onnx_from_safetensors(contents[0], MeshNetPlan(**card.weights.meshnet.model_dump()))
    return contents[0]


def _check_weights(name: str, content: bytes, file: WeightFile) -> None:
    found = sha256_of_bytes(content)
    if found != file.sha256:
        raise ChecksumError(f"{name} has SHA-256 {found}; its card wants {file.sha256}")


def _user_cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("brainchop_pipe", appauthor=False))


def _copy_from_folder(url: str, output_file: str, _pooch: object) -> None:
    """Stand in for pooch's downloaders where the mirror is a folder."""
    shutil.copyfile(url, output_file)
