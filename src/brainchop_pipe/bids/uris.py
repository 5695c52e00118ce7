"""BIDS URIs: which file a derivative refers to."""

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

_SCHEME = "bids:"


@dataclass(frozen=True)
class Places:
    """Where the datasets are that URIs of an output refer to.

    Parameters
    ----------
    output_dir : Path
    links : dict
        Folders by the name that URIs have for them.
    """

    output_dir: Path
    links: dict[str, Path]

    @classmethod
    def of(cls, output_dir: Path, bids_dir: Path | None = None) -> "Places":
        """Read the links of an output's description; `bids_dir` takes the place of that to the raw data."""
        links = {}
        try:
            content = json.loads((output_dir / "dataset_description.json").read_text(encoding="utf-8"))
            for name, link in (content.get("DatasetLinks") or {}).items():
                links[str(name)] = output_dir.resolve() / unquote(str(link))
        except (OSError, ValueError, AttributeError):
            pass
        if bids_dir is not None:
            links["raw"] = bids_dir.resolve()
        return cls(output_dir, links)

    def resolve(self, uri: str) -> Path | None:
        """Give the file that a URI means; None where its dataset is not known, or it is no URI."""
        if not uri.startswith(_SCHEME):
            return None
        name, _, path = uri.removeprefix(_SCHEME).partition(":")
        root = self.links.get(name) if name else self.output_dir
        return None if root is None or not path else root / path


def output_of(file: Path) -> Path | None:
    """Find the output folder that a file lies in: the nearest one above with a description; None without."""
    return next((p for p in file.resolve().parents if (p / "dataset_description.json").is_file()), None)
