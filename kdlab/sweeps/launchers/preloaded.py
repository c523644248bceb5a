"""Fill, when imported, the caches that every run fills first: a fork server imports this module last (`runs.process.PRELOADED`).

Its processes then find Hydra's grammar, compiled patterns and transformers' tables of weight names in memory, a quarter of
the processor time of a tiny run. No device and no thread pool is touched. W&B, faiss and the user's own code are left to
the runs that use them.
"""

from __future__ import annotations

# imported by a run where it is used, and so by each process
import torch.utils.serialization  # noqa: F401

import kdlab.data.tasks.wordnet
import kdlab.methods.knowledge.hidden_states
import kdlab.methods.knowledge.layer_maps
import kdlab.runs.closing.result_schema  # noqa: F401
from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.models.loading import fill_weight_names

checked(composition(["+exp=adads_finetune", "trainer.max_steps=1", "optim.lr=1e-3"])[0])
fill_weight_names()
