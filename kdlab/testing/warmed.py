"""Fill, when imported, the caches that every run fills first: a fork server imports this module last.

Its children then find Hydra's grammar, compiled patterns and transformers' tables of weight names in memory, a quarter of
the processor time of a tiny run. No device and no thread pool is touched.
"""

from __future__ import annotations

import gc

# imported by a run where it is used, and so by each child
import faiss  # noqa: F401
import torch.utils.serialization  # noqa: F401
from transformers import conversion_mapping

import kdlab.data.tasks.wordnet
import kdlab.methods.knowledge.hidden_states
import kdlab.methods.knowledge.layer_maps
import kdlab.runs.closing.result_schema  # noqa: F401
from kdlab.config.composition import composition
from kdlab.config.schema import checked

checked(composition(["+exp=adads_finetune", "trainer.max_steps=1", "optim.lr=1e-3"])[0])
conversion_mapping.get_checkpoint_conversion_mapping("bert")
gc.freeze()  # what is here is never garbage: children need not look through it, nor copy its pages
