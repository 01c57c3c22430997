"""A label distribution asked of transformers, token by token: what every engine must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.cloud.teacher.prompt import label_prompts, text_tokens
from understudy.cloud.teacher.spec import PromptOptions


class Reference:
    """A causal model in transformers; `adapter` names a LoRA folder."""

    def __init__(self, folder: str, max_tokens: int, adapter: str = "") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._max_tokens = max_tokens
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        if adapter:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, adapter).eval()

    def next(self, tokens: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the whole vocabulary after `tokens`."""
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([list(tokens)])).logits[0, -1]
            logs: np.ndarray = torch.log_softmax(logits.double(), -1).numpy()
        return logs

    def label(
        self, text: str, labels: Sequence[str], options: PromptOptions
    ) -> tuple[dict[str, float], float]:
        """Probability by label and label mass, by asking every branch of the answers' tree."""
        parts = []
        for prompt in label_prompts(self.tokenizer, labels, options, options.permutations):
            stem = len(prompt.trie.stem)
            scores = {}
            for branch in prompt.trie.branches:
                path = branch.path[stem:]
                tokens = prompt.tokens(
                    text_tokens(self.tokenizer, text), path, self._max_tokens - 1
                )
                logs = self.next(tokens)
                scores[branch.path] = {token: float(logs[token]) for token in branch.choices}
            parts.append(prompt.trie.log_probs(scores))
        probabilities = np.mean([np.exp(logs) for logs, _ in parts], axis=0)
        mass = float(np.mean([mass for _, mass in parts]))
        return dict(zip(labels, probabilities.tolist(), strict=True)), mass
