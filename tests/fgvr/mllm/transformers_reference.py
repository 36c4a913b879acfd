"""What transformers' own model and processor say: one whole prompt a forward, no cache, no sharing."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fgvr.config.near import LABEL_PROMPT
from fgvr.mllm.prompts import AspectOrder, aspect_conversation, image_conversation, render
from fgvr.mllm.vllm_engine.scoring import name_ids
from fgvr.mllm.yes_no import AnswerTokens, token_ids


class Reference:
    """A plain transformers forward in fp32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, conversation: Any, image: Image.Image) -> Any:
        text = render(self.processor, conversation)
        return self.processor(images=image, text=text, return_tensors="pt")

    def conversation(self, question: str, order: AspectOrder, instruction: str) -> Any:
        return aspect_conversation(question, order, instruction)

    def aspect(
        self, question: str, order: AspectOrder, instruction: str, image: Image.Image, **more: Any
    ) -> tuple[float, float]:
        """p(yes) and label mass; `more` goes to the model."""
        conversation = self.conversation(question, order, instruction)
        text = render(self.processor, conversation)
        tokens = AnswerTokens.resolve(self.processor.tokenizer, text)
        with torch.inference_mode():
            logits = self.model(**self.inputs(conversation, image), **more).logits[0, -1].double()
        two = torch.softmax(logits[[tokens.yes, tokens.no]], -1)
        return float(two[0]), float(torch.softmax(logits, -1)[[tokens.yes, tokens.no]].sum())

    def label(self, image: Image.Image, tokens: int) -> tuple[str, float, int]:
        inputs = self.inputs(image_conversation(LABEL_PROMPT), image)
        with torch.inference_mode():
            out = self.model.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        prompt = inputs["input_ids"].shape[1]
        new = out.sequences[0, prompt:]
        lps = [
            float(torch.log_softmax(step[0].double(), -1)[token]) for step, token in zip(out.logits, new, strict=True)
        ]
        return self.processor.tokenizer.decode(new, skip_special_tokens=True), float(np.mean(lps)), prompt

    def name(self, name: str, prompt: str, image: Image.Image) -> float:
        """Mean log-probability of the name's tokens as the reply: one forward with the name behind the prompt."""
        conversation = image_conversation(prompt)
        inputs = self.inputs(conversation, image)
        tokens = name_ids(self.processor.tokenizer, render(self.processor, conversation), name)
        length = inputs["input_ids"].shape[1]
        ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
        rest = {key: value for key, value in inputs.items() if key not in {"input_ids", "attention_mask"}}
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **rest).logits[0].double()
        steps = logits[length - 1 : -1].log_softmax(-1)
        return float(np.mean([float(step[token]) for step, token in zip(steps, tokens, strict=True)]))

    def letters(self, conversation: Any, count: int) -> list[float]:
        """Probabilities of the first letters as the reply to a text, as they are: one forward without an image."""
        text = render(self.processor, conversation)
        words = self.processor.tokenizer
        tokens = [token_ids(words, text + letter)[-1] for letter in "ABC"[:count]]
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([token_ids(words, text)])).logits[0, -1].double()
        return [float(share) for share in logits.softmax(-1)[tokens]]
