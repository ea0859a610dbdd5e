"""A causal language model as a measuring instrument: log-probabilities of given continuations, nothing generated."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ModelError

if TYPE_CHECKING:
    import torch

Tokens = tuple[int, ...]

_HOW_TO_GO_ON = "or go on without a judge (PERTURB_JUDGE__NAME=none)"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded causal LM. `sha256` names its weights; `encode` turns text into token ids without special tokens."""

    name: str
    sha256: str
    encode: Callable[[str], Tokens]
    start: Tokens
    body: Any
    head: "torch.Tensor"
    soft_cap: float | None
    batch_size: int

    def log_likelihoods(self, requests: Sequence[tuple[str, str]]) -> list[float]:
        """`log p(continuation | prompt)` in nats, summed over the continuation's tokens, for each request.

        A continuation begins with the space that separates it from its prompt. What requests have in common is
        computed once: a prompt serves all continuations, and a text that begins another one costs nothing extra.
        Only the target tokens' positions meet the output matrix.
        """
        tokens = [(self.start + self.encode(prompt), self.encode(target)) for prompt, target in requests]
        return self.token_log_likelihoods(tokens)

    def token_log_likelihoods(self, requests: Sequence[tuple[Tokens, Tokens]]) -> list[float]:
        """As `log_likelihoods`, over token ids; prompts include the start token."""
        totals: dict[tuple[Tokens, Tokens], float] = dict.fromkeys(requests, 0.0)
        wanted: dict[Tokens, set[tuple[int, int]]] = {}
        for prompt, target in totals:
            sequence = prompt + target[:-1]
            places = wanted.setdefault(sequence, set())
            places.update((len(prompt) + step - 1, token) for step, token in enumerate(target))
        covers = _covering(list(wanted))
        gathered: dict[Tokens, set[tuple[int, int]]] = {}
        for sequence, places in wanted.items():
            gathered.setdefault(covers[sequence], set()).update(places)
        found = self._token_log_probabilities(gathered)
        for prompt, target in totals:
            cover = covers[prompt + target[:-1]]
            totals[prompt, target] = sum(
                found[cover, len(prompt) + step - 1, token] for step, token in enumerate(target)
            )
        return [totals[request] for request in requests]

    def _token_log_probabilities(
        self, wanted: dict[Tokens, set[tuple[int, int]]]
    ) -> dict[tuple[Tokens, int, int], float]:
        import torch

        found: dict[tuple[Tokens, int, int], float] = {}
        # Alike lengths together: little padding. The order depends on the texts alone.
        ordered = sorted(wanted, key=lambda sequence: (len(sequence), sequence))
        with torch.inference_mode():
            for first in range(0, len(ordered), self.batch_size):
                batch = ordered[first : first + self.batch_size]
                found.update(self._one_batch({sequence: wanted[sequence] for sequence in batch}))
        return found

    def _one_batch(self, wanted: dict[Tokens, set[tuple[int, int]]]) -> dict[tuple[Tokens, int, int], float]:
        import torch

        width = max(map(len, wanted))
        ids = torch.zeros(len(wanted), width, dtype=torch.long)
        for row, sequence in enumerate(wanted):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        # Padding stands on the right, where causal attention never looks from a real token.
        hidden = self.body(input_ids=ids.to(self.head.device), use_cache=False).last_hidden_state
        keys = [(row, place, token) for row, places in enumerate(wanted.values()) for place, token in sorted(places)]
        spots = sorted({(row, place) for row, place, _ in keys})
        rows, places = (torch.tensor(column) for column in zip(*spots, strict=True))
        logits = (hidden[rows, places] @ self.head.T).float()
        if self.soft_cap:
            logits = self.soft_cap * torch.tanh(logits / self.soft_cap)
        normaliser = logits.logsumexp(dim=-1)
        line = {spot: number for number, spot in enumerate(spots)}
        numbers = torch.tensor([line[row, place] for row, place, _ in keys])
        values = logits[numbers, torch.tensor([token for _, _, token in keys])] - normaliser[numbers]
        sequences = list(wanted)
        return {
            (sequences[row], place, token): value
            for (row, place, token), value in zip(keys, values.tolist(), strict=True)
        }


def _covering(sequences: Sequence[Tokens]) -> dict[Tokens, Tokens]:
    """Each sequence's longest extension among `sequences` that sorts next to it (or itself)."""
    covers: dict[Tokens, Tokens] = {}
    longer: Tokens = ()
    for sequence in sorted(sequences, reverse=True):
        if longer[: len(sequence)] != sequence:
            longer = sequence
        covers[sequence] = longer
    return covers


def load_language_model(folder_or_id: str, *, name: str, sha256: str | None, batch_size: int) -> LanguageModel:
    """Load a causal LM from a local folder or the Hub, in float32 on the CPU or bfloat16-free float32 on CUDA.

    Raises ModelError that says how to go on when it can't be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    import models._torchvision  # noqa: F401  # transformers imports torchvision where it finds one

    try:
        encode, start = _tokenizer(folder_or_id)
        model = AutoModelForCausalLM.from_pretrained(folder_or_id, dtype=torch.float32)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"judge {name!r} cannot be loaded: {reason}; accepted: 'gemma-3-270m', a Hugging Face id or a local folder, "
            + _HOW_TO_GO_ON
        ) from error
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return LanguageModel(
        name=name,
        sha256=sha256 or _digest_of_weights(folder_or_id),
        encode=encode,
        start=start,
        body=model.get_decoder(),
        head=model.get_output_embeddings().weight,
        soft_cap=getattr(model.config, "final_logit_softcapping", None),
        batch_size=batch_size,
    )


def _tokenizer(folder_or_id: str) -> tuple[Callable[[str], Tokens], Tokens]:
    file = Path(folder_or_id) / "tokenizer.json"
    if file.is_file():
        # Half the time of AutoTokenizer, which parses the same file and then builds a second vocabulary.
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(file))
        start = tuple(fast.encode("", add_special_tokens=True).ids[:1])
        return lambda text: tuple(fast.encode(text, add_special_tokens=False).ids), start
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(folder_or_id)
    start = () if slow.bos_token_id is None else (int(slow.bos_token_id),)
    return lambda text: tuple(slow.encode(text, add_special_tokens=False)), start


def _digest_of_weights(folder_or_id: str) -> str:
    """sha256 over the weight files' bytes, in the order of their names."""
    folder = Path(folder_or_id)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(folder_or_id, local_files_only=True, allow_patterns=["*.safetensors"]))
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
