"""Answers of a demo MLLM through plain transformers, one question per forward pass: a slow reference for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, InternVLForConditionalGeneration


class ReferenceMllm:
    """An HF InternVL checkpoint that names images and answers yes/no questions about them."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = InternVLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        tokenizer = self.processor.tokenizer
        self.yes, self.no = (tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))

    def prompt(self, text: str) -> str:
        """The whole prompt for one image and a text, by the model's own chat template."""
        content = [{"type": "image"}, {"type": "text", "text": text}]
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return rendered

    @torch.inference_mode()
    def label(self, images: np.ndarray, text: str, batch: int = 120, longest: int = 12) -> list[str]:
        """Greedy answers to ``text`` for uint8 [N, 64, 64, 3] images, of ``longest`` tokens at most."""
        answers: list[str] = []
        for start in range(0, len(images), batch):
            inputs = self._inputs(images[start : start + batch], text)
            tokens = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
            tails = tokens[:, inputs["input_ids"].shape[1] :]
            answers += [answer.strip() for answer in self.processor.batch_decode(tails, skip_special_tokens=True)]
        return answers

    @torch.inference_mode()
    def p_yes(self, images: np.ndarray, texts: Sequence[str], batch: int = 120) -> tuple[np.ndarray, np.ndarray]:
        """p(Yes) among Yes and No, and the two tokens' share of all probability: float [N, Q] each."""
        p, mass = np.empty((len(images), len(texts))), np.empty((len(images), len(texts)))
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            pixels = None
            for column, text in enumerate(texts):
                inputs = self._inputs(images[part], text, pixels)
                pixels = inputs["pixel_values"]
                logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float().log_softmax(dim=-1)
                yes, no = logits[:, self.yes], logits[:, self.no]
                p[part, column] = torch.sigmoid(yes - no).numpy()
                mass[part, column] = (yes.exp() + no.exp()).numpy()
        return p, mass

    def _inputs(self, images: np.ndarray, text: str, pixels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        prompt = self.prompt(text)
        if pixels is None:
            pictures = [Image.fromarray(image) for image in images]
            inputs = dict(self.processor(images=pictures, text=[prompt] * len(images), return_tensors="pt"))
        else:
            one = self.processor(images=Image.fromarray(images[0]), text=prompt, return_tensors="pt")
            ids = one["input_ids"].expand(len(images), -1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs
