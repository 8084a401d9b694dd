"""A prompt's ids: one BOS, the same pieces from either file, and LLaMA's own where it is known."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import LlamaTokenizer

from sim_stream.config import OPENVIGA, PAPER_PROMPT
from sim_stream.errors import CheckpointError
from sim_stream.models import tokenizer
from sim_stream.models.tokenizer import PAPER_PROMPT_IDS, prompt_ids

VOCAB = 320


def ids_of(path: Path, text: str = PAPER_PROMPT, vocab_size: int = VOCAB) -> tuple[int, ...]:
    return prompt_ids(path, text, sha256="", vocab_size=vocab_size)


def test_one_bos_stands_in_front_and_the_pieces_are_the_text(spm: Path) -> None:
    ids = ids_of(spm)
    assert ids[0] == 1 and Counter(ids)[1] == 1 and 2 not in ids
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    assert processor.decode(list(ids[1:])) == PAPER_PROMPT


def test_lower_and_upper_case_vision_are_other_pieces(spm: Path) -> None:
    assert ids_of(spm, "<vision>") != ids_of(spm, "<VISION>")


def test_both_kinds_of_file_and_transformers_agree(spm: Path, tmp_path: Path) -> None:
    theirs = LlamaTokenizer.from_pretrained(spm.parent)
    theirs.save_pretrained(tmp_path)
    for text in (PAPER_PROMPT, "Drive on, then wait. ü"):
        ids = ids_of(tmp_path / "tokenizer.json", text)
        assert ids == ids_of(spm, text)
        assert list(ids[1:]) == theirs(text, add_special_tokens=False).input_ids


def test_a_bos_in_the_text_is_not_a_second_one(spm: Path) -> None:
    assert Counter(ids_of(spm, "<s>USER: <vision>"))[1] == 1


def test_ids_beyond_the_models_vocabulary_are_refused(spm: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ids up to \d+; the model's vocabulary: 8"):
        ids_of(spm, vocab_size=8)


def test_files_that_are_no_llama_tokenizer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        ids_of(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        ids_of(tmp_path / "tokenizer.json")
    Tokenizer(BPE({"a": 0, "<s>": 7}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="<s> is 7, LLaMA's is 1"):
        ids_of(tmp_path / "tokenizer.json")


def test_a_known_file_must_give_the_stored_ids(spm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256(spm.read_bytes()).hexdigest()
    monkeypatch.setattr(tokenizer, "KNOWN_SHA256", (sha256,))
    with pytest.raises(CheckpointError, match="LLaMA's tokenizer gives"):
        prompt_ids(spm, PAPER_PROMPT, sha256=sha256, vocab_size=VOCAB)
    monkeypatch.setattr(tokenizer, "PAPER_PROMPT_IDS", ids_of(spm))
    assert prompt_ids(spm, PAPER_PROMPT, sha256=sha256, vocab_size=VOCAB) == ids_of(spm)


def test_the_stored_ids_begin_with_the_only_bos_and_end_with_vision() -> None:
    assert PAPER_PROMPT_IDS[0] == 1 and PAPER_PROMPT_IDS.count(1) == 1
    assert PAPER_PROMPT_IDS[-3:] == (529, 4924, 29958)  # ▁< vision >
    assert max(PAPER_PROMPT_IDS) < OPENVIGA.world_model.text_vocab_size
