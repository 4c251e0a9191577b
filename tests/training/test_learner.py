"""What PyTorch trains is what mlx-lm serves."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model

from training import train
from training.corpus import Dialogues
from training.learner import Learner
from training.llama_folder import Shape, write_llama


def test_the_written_folder_says_in_mlx_what_the_learner_says(tmp_path: Path) -> None:
    shape = Shape(hidden=96, layers=3, heads=6, kv_heads=3, intermediate=80, context=512)
    tokenizer = train.train_tokenizer(Dialogues(), 100)
    vocab = tokenizer.get_vocab_size()
    learner = Learner(shape, vocab, subjects=3, replies=5, seed=11)
    folder = write_llama(
        tmp_path / "m", shape=shape, weights=learner.weights(), tokenizer=tokenizer, template=train.TEMPLATE
    )
    module, _ = load_model(folder)
    tokens = np.random.default_rng(2).integers(0, vocab, (2, 300))
    with torch.no_grad():
        expected = learner.llama.logits(learner.llama(torch.from_numpy(tokens))[0]).numpy()
    seen = np.array(module(mx.array(tokens)))
    assert expected.std() > 0.5
    np.testing.assert_allclose(seen, expected, atol=2e-4)
