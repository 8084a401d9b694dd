"""A tokenizer made as LLaMA's was, for tests of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece

from sim_stream.config import PAPER_PROMPT

CORPUS = [PAPER_PROMPT, "<VISION> Drive on, then turn left <vision> and wait.", "USER: a </vision>"]


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 pieces: BPE with byte fallback and a dummy prefix; <s> is 1."""
    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return folder / "tokenizer.model"
