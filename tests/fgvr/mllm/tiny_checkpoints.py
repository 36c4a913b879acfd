"""Random checkpoints of real architectures, small enough to be built in a test: two hidden layers of 64 units."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scenario_inputs import QUESTIONS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AddedToken,
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fgvr.config.makd import ASPECT_INSTRUCTION
from fgvr.config.near import LABEL_PROMPT

INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

TEXT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TEXTS = [
    *QUESTIONS,
    ASPECT_INSTRUCTION,
    LABEL_PROMPT,
    "Yes",
    "No",
    " Yes",
    " No",
    "user",
    "assistant",
    "USER: ASSISTANT:",
]


def tokenizer(
    special: list[str], *, bos: str | None = None, split_yes: bool = False, **named: str
) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the prompts' words; `split_yes` leaves "Yes" in two pieces; `bos` is put first."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for text in _TEXTS if "Yes" not in text] if split_yes else _TEXTS
    bpe.train_from_iterator(texts * 3, trainer)
    if bos is not None:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=bos, clean_up_tokenization_spaces=False, model_max_length=2048, **named
    )


def text_config(vocabulary: int, eos: int) -> dict[str, object]:
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # vLLM's CPU attention has no kernel for heads of less than 32
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,  # large enough that prompts and images change the answer
        "tie_word_embeddings": True,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": eos,
    }


def build_internvl(folder: Path, *, split_yes: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    """InternVL as transformers saves it: 64 px images, patch 8, 16 image tokens."""
    torch.manual_seed(0)
    words = tokenizer(
        ["<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        split_yes=split_yes,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    images = GotOcr2ImageProcessor(
        size={"height": 64, "width": 64}, crop_to_patches=False, min_patches=1, max_patches=1
    )
    videos = InternVLVideoProcessor(size={"height": 64, "width": 64})
    processor = InternVLProcessor(images, words, videos, image_seq_length=16, chat_template=INTERNVL_TEMPLATE)
    processor.save_pretrained(folder)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "image_size": 64,
            "patch_size": 8,
            "initializer_range": 0.2,
            "layer_scale_init_value": 1.0,
            "use_mean_pooling": False,
        },
        text_config=text_config(len(words), words.eos_token_id),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
    )
    model = InternVLForConditionalGeneration(config).eval()
    # HF starts the position embeddings at zero.
    torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.2)
    model.to(dtype).save_pretrained(folder)
    return folder


def build_llava(folder: Path) -> Path:
    """LLaVA with a CLIP tower and a tokenizer that puts <s> first; its template ends in "ASSISTANT:"."""
    torch.manual_seed(1)
    words = tokenizer(
        ["<s>", "</s>", "<image>"],
        bos="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    images = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    processor.save_pretrained(folder)
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
            "projection_dim": 64,
            "initializer_range": 0.5,
        },
        text_config=text_config(len(words), words.eos_token_id),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    llava_names_of_vllm(folder)
    return folder


def llava_names_of_vllm(folder: Path) -> None:
    """Transformers 5 dropped a level of names that vLLM 0.32 still expects: put it back."""
    file = folder / "model.safetensors"
    tensors = {
        name.replace("vision_tower.", "vision_tower.vision_model.")
        if "vision_tower." in name and "vision_model." not in name
        else name: tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


def build_text_model(folder: Path) -> Path:
    """A language model without vision."""
    torch.manual_seed(2)
    words = tokenizer(["<|im_end|>", "<|im_start|>"], eos_token="<|im_end|>", pad_token="<|im_end|>")
    words.chat_template = TEXT_TEMPLATE
    words.save_pretrained(folder)
    config = Qwen2Config(**text_config(len(words), words.eos_token_id))
    Qwen2ForCausalLM(config).eval().save_pretrained(folder)
    return folder
