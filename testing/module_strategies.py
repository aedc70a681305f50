"""Strategies for PyTorch modules. PyTorch is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from cgptc.frontend.gpt_config import GptConfig
from cgptc.testing.gpt_strategies import gpt_configs

if TYPE_CHECKING:
    from cgptc.frontend.gpt import Gpt

DEVIATION = 0.3
"""Of every drawn parameter, about 1 for norms' weights: far from what initialisation gives, so that none can go missing unseen."""


@st.composite
def gpt_modules(draw: st.DrawFn, configs: st.SearchStrategy[GptConfig] | None = None) -> Gpt:
    """cgptc's own GPT in evaluation mode, float32, of a drawn configuration, with seeded parameters all of which matter.

    ``module(input_ids, attention_mask)``: int64 ids [batch, seq] below ``module.config.vocabulary``, seq at most
    ``module.config.positions``.
    """
    import torch

    from cgptc.frontend.gpt import Gpt

    module = Gpt(draw(configs if configs is not None else gpt_configs()))
    random = np.random.default_rng(draw(st.integers(0, 2**16 - 1)))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            content = random.normal(scale=DEVIATION, size=tuple(parameter.shape))
            norm = name.rpartition(".")[0].rpartition(".")[2].startswith("ln_") and name.endswith(".weight")
            parameter.copy_(torch.from_numpy(content + norm))
    module.eval()
    return module
