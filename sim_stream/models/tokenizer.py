"""A prompt's text -> LLaMA ids, from the tokenizer file that comes with a checkpoint.

`tokenizer.model` is read by sentencepiece, `tokenizer.json` by tokenizers (extra ``weights``).
Exactly one BOS stands in front: neither the text's own ``<s>`` nor a template adds a second one.
`<vision>` is plain text, in lower case as LWM writes it (facts/models.md part 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sim_stream.config import PAPER_PROMPT
from sim_stream.errors import CheckpointError, Unavailable

BOS, EOS = 1, 2
# SHA-256 of LLaMA's own files (1 and 2 share them; LWM ships the first), and the paper's prompt in
# them, found with an independent implementation (llama-tokenizer-js 1.2.2): pieces
# ▁You ▁are ▁a ▁helpful ▁assistant . ▁US ER : ▁Gener ate ▁a ▁video ▁of ▁driving ▁vehicles . ▁A SS
# IST ANT : ▁< vision >
KNOWN_SHA256 = (
    "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347",  # tokenizer.model
    "bcd04f0eadf90287bd26e1a183ac487d8a141b09b06aecb7725bbdd343640f2e",  # tokenizer.json
)
PAPER_PROMPT_IDS = (
    *(BOS, 887, 526, 263, 8444, 20255, 29889, 3148, 1001, 29901, 3251, 403, 263, 4863, 310, 19500),
    *(24413, 29889, 319, 1799, 9047, 13566, 29901, 529, 4924, 29958),
)


def prompt_ids(path: Path, text: str, *, sha256: str, vocab_size: int) -> tuple[int, ...]:
    """BOS and the ids of `text`. Raises CheckpointError, Unavailable.

    `sha256`: of the file; ids of a known file must be the stored ones.
    """
    ids = (BOS, *encode(path, text))
    if ids.count(BOS) != 1 or EOS in ids:
        raise CheckpointError(f"{path}: {ids} has not exactly one BOS ({BOS}), or an end")
    if not all(0 <= i < vocab_size for i in ids):
        raise CheckpointError(f"{path}: ids up to {max(ids)}; the model's vocabulary: {vocab_size}")
    if len(ids) < 2:
        raise CheckpointError(f"{path}: no ids for {text!r}")
    check_known(path, text, ids, sha256)
    return ids


def check_known(path: Path, text: str, ids: Sequence[int], sha256: str) -> None:
    """Raises CheckpointError where a known file gives other ids than it should."""
    if sha256 in KNOWN_SHA256 and text == PAPER_PROMPT and tuple(ids) != PAPER_PROMPT_IDS:
        raise CheckpointError(f"{path}: LLaMA's tokenizer gives {PAPER_PROMPT_IDS}, not {ids}")


def encode(path: Path, text: str) -> list[int]:
    """Ids without BOS or EOS. Raises CheckpointError, Unavailable."""
    if path.suffix == ".model":
        return _encode_sentencepiece(path, text)
    tokenizers = _library("tokenizers")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: not a tokenizer: {str(error)[:200]}") from error
    if tokenizer.token_to_id("<s>") != BOS:
        raise CheckpointError(f"{path}: <s> is {tokenizer.token_to_id('<s>')}, LLaMA's is {BOS}")
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _encode_sentencepiece(path: Path, text: str) -> list[int]:
    sentencepiece = _library("sentencepiece")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a sentencepiece model: {error}") from error
    if processor.bos_id() != BOS:
        raise CheckpointError(f"{path}: BOS is {processor.bos_id()}, LLaMA's is {BOS}")
    return list(processor.encode(text))


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Unavailable(
            f"{name} is not installed, which reads this tokenizer: pip install sim-stream[weights]"
        ) from error
