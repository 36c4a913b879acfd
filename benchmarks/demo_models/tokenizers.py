"""Byte-level BPE tokenizers fitted to the demo's texts, so that embeddings stay small; other texts work, too."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


def train_bpe(texts: Iterable[str], *, vocabulary: int, special: list[str], lowercase: bool) -> Tokenizer:
    """Learn merges on ``texts``; special tokens get the first ids, then the 256 bytes, then merges."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def clip_tokenizer(texts: Iterable[str], *, vocabulary: int, context_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer that puts ``<bos>`` and ``<eos>`` around a text; ``<pad>`` is 0."""
    tokenizer = train_bpe(texts, vocabulary=vocabulary, special=["<pad>", "<bos>", "<eos>"], lowercase=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def mllm_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A case-preserving tokenizer with the chat and image tokens of InternVL."""
    image = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *image.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(texts, vocabulary=vocabulary, special=special, lowercase=False),
        pad_token="<|endoftext|>",  # noqa: S106
        eos_token="<|im_end|>",  # noqa: S106
        extra_special_tokens=image,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
