"""What the public strategies draw is valid, varied, and small once shrunk."""

from __future__ import annotations

import pytest
from hypothesis import find, given, settings

from cgptc.frontend.gpt import Gpt
from cgptc.passes.manager import Pass, Pipeline
from cgptc.testing import SparsityMask, gpt_modules, pipelines, sparsity_masks
from cgptc.testing.pipeline_strategies import optional_passes
from cgptc.testing.sparsity_strategies import FORMS


@given(pipelines())
def test_a_pipeline_prints_as_what_parses_to_it(pipeline: Pipeline) -> None:
    assert Pipeline.parse(str(pipeline)) == pipeline
    assert all(type(pass_).optional for pass_ in pipeline.passes)


def test_pipelines_without_passes_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no pass is left"):
        pipelines([])


@pytest.mark.parametrize("cls", optional_passes(), ids=lambda cls: cls.name)
def test_every_optional_pass_is_drawn(cls: type[Pass]) -> None:
    assert cls in optional_passes()
    enough = settings(database=None, max_examples=1000)  # one of some twenty, three times an example: 50 would miss it now and then
    assert find(pipelines(), lambda drawn: any(type(pass_) is cls for pass_ in drawn.passes), settings=enough).passes == (cls(),)


@given(sparsity_masks((6, 16)))
def test_masks_have_the_shape_and_the_structure_of_their_form(mask: SparsityMask) -> None:
    assert mask.keep.shape == (6, 16)
    assert 0 <= mask.sparsity <= 1
    if mask.form == "of each group":
        counts = {tuple(mask.keep.reshape(6, -1, size).sum(axis=2).ravel()) for size in (2, 4, 8)}
        assert any(len(set(found)) == 1 for found in counts)
    if mask.form == "rows":
        assert all(len(set(row)) == 1 for row in mask.keep.tolist())
    if mask.form == "columns":
        assert all(len(set(column)) == 1 for column in mask.keep.T.tolist())


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_every_form_drop_some_and_keep_some(form: str) -> None:
    found = find(sparsity_masks(forms=(form,)), lambda mask: 0 < mask.sparsity < 1, settings=settings(database=None))
    assert found.keep.size <= 32


@settings(max_examples=5)
@given(gpt_modules())
def test_modules_run_and_depend_on_every_parameter(module: Gpt) -> None:
    import torch

    assert not module.training
    seq = min(module.config.positions, 3)
    ids = torch.arange(2 * seq).reshape(2, seq) % module.config.vocabulary
    assert module(ids).shape[:2] == (2, seq)
    assert all(bool((parameter != 0).all()) for parameter in module.parameters())
