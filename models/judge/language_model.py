"""A causal language model that gives probabilities of given words; it generates no text.

Any model works that transformers loads as a causal language model, from a local folder or the Hub.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from perturb.schemas.errors import ModelError

if TYPE_CHECKING:
    import torch

Tokens = tuple[int, ...]
# A place in a text, whose hidden state predicts the next token, and the token whose probability is wanted there.
_Spot = tuple[int, int]
_Row: TypeAlias = "tuple[Tokens, int, torch.Tensor]"

# Rows multiplied by the output matrix at once: enough to read its 0.7 GB seldom, few enough for 0.3 GB of logits.
_HEAD_ROWS = 256
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded causal language model in float32. `sha256` is that of its weights; every text begins with `start`.

    `encode` turns text into token ids without special tokens; `body` is the decoder up to the last hidden state and
    `head` the (vocabulary, width) output matrix.
    """

    name: str
    sha256: str
    encode: Callable[[str], Tokens]
    start: Tokens
    body: "torch.nn.Module"
    head: "torch.Tensor"
    soft_cap: float | None
    batch_size: int

    def log_likelihoods(self, requests: Sequence[tuple[str, str]]) -> list[float]:
        """Return `log p(continuation | prompt)` in nats, summed over the continuation's tokens, for each request.

        A continuation includes the space that separates it from its prompt. A text that begins another one adds no
        cost, so one prompt serves many continuations, and only the continuations' positions are multiplied by the
        output matrix. A result does not depend on the other requests of the call, up to float32 rounding.
        """
        coded = [(self.start + self.encode(prompt), self.encode(target)) for prompt, target in requests]
        texts = [prompt + target[:-1] for prompt, target in coded]
        covers = _covering(texts)
        wanted: dict[Tokens, set[_Spot]] = {}
        for (prompt, target), text in zip(coded, texts, strict=True):
            wanted.setdefault(covers[text], set()).update(_spots(prompt, target))
        found = self._log_probabilities(wanted)
        return [
            sum(found[covers[text]][spot] for spot in _spots(prompt, target))
            for (prompt, target), text in zip(coded, texts, strict=True)
        ]

    def overlaps(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the Bhattacharyya coefficient (0..1) of the next-token distributions after the two prompts."""
        import torch

        found: list[float] = []
        with torch.inference_mode():
            for first in range(0, len(pairs), self.batch_size):
                batch = pairs[first : first + self.batch_size]
                texts = sorted({self.start + self.encode(prompt) for pair in batch for prompt in pair})
                spots = {text: {(len(text) - 1, 0)} for text in texts}
                rows = {text: state for text, _, state in self._hidden(spots)}
                roots = (
                    torch.log_softmax(self._logits(torch.stack([rows[text] for text in texts])), dim=-1).div(2).exp()
                )
                line = {text: number for number, text in enumerate(texts)}
                for one, other in batch:
                    here, there = (line[self.start + self.encode(prompt)] for prompt in (one, other))
                    found.append(float(roots[here] @ roots[there]))
        return found

    def _log_probabilities(self, wanted: Mapping[Tokens, set[_Spot]]) -> dict[Tokens, dict[_Spot, float]]:
        import torch

        found: dict[Tokens, dict[_Spot, float]] = {text: {} for text in wanted}
        with torch.inference_mode():
            for block in _blocks(self._hidden(wanted), _HEAD_ROWS):
                logits = self._logits(torch.stack([state for _, _, state in block]))
                normalisers = logits.logsumexp(dim=-1)
                for row, (text, place, _) in enumerate(block):
                    tokens = sorted(token for spot, token in wanted[text] if spot == place)
                    values = (logits[row, tokens] - normalisers[row]).tolist()
                    found[text].update({(place, token): value for token, value in zip(tokens, values, strict=True)})
        return found

    def _hidden(self, wanted: Mapping[Tokens, set[_Spot]]) -> Iterator["_Row"]:
        """The last hidden state at each wanted place, as (text, place, state)."""
        import torch

        # Similar lengths together: little padding, and an order that depends on the texts alone.
        ordered = sorted(wanted, key=lambda text: (len(text), text))
        for first in range(0, len(ordered), self.batch_size):
            batch = ordered[first : first + self.batch_size]
            # Padding is on the right, which causal attention does not see from a real token: no mask is needed.
            ids = torch.zeros(len(batch), len(batch[-1]), dtype=torch.long)
            for row, text in enumerate(batch):
                ids[row, : len(text)] = torch.tensor(text)
            states = self.body(input_ids=ids.to(self.head.device), use_cache=False).last_hidden_state
            for row, text in enumerate(batch):
                for place in sorted({place for place, _ in wanted[text]}):
                    yield text, place, states[row, place]

    def _logits(self, states: "torch.Tensor") -> "torch.Tensor":
        logits = states @ self.head.T
        return logits if self.soft_cap is None else self.soft_cap * (logits / self.soft_cap).tanh()


def load_language_model(folder_or_id: str, *, name: str, sha256: str | None, batch_size: int) -> LanguageModel:
    """Load a causal language model in float32 from a local folder or the Hub, onto the GPU where there is one.

    `sha256` None computes the digest of the weight files. Raises ModelError that says what is accepted.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    import perturb.models._torchvision  # noqa: F401  # transformers imports torchvision where it finds one

    disable_progress_bar()  # type: ignore[no-untyped-call]  # Its bar for two hundred small tensors would vanish at once.
    try:
        encode, start = _tokenizer(folder_or_id)
        model: Any = AutoModelForCausalLM.from_pretrained(folder_or_id, dtype=torch.float32)
        digest = sha256 or _digest_of_weights(folder_or_id)
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        body, head = model.get_decoder(), model.get_output_embeddings().weight
    # Damaged tokenizers and safetensors raise errors whose only base is Exception.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(
            f"judge {name!r} cannot be loaded ({reason}); accepted: 'gemma-3-270m', the Hugging Face id or the folder "
            "of a causal language model, or judge.name = 'none' (PERTURB_JUDGE__NAME=none) for no judge"
        ) from error
    return LanguageModel(
        name=name,
        sha256=digest,
        encode=encode,
        start=start,
        body=body,
        head=head,
        soft_cap=getattr(model.config, "final_logit_softcapping", None),
        batch_size=batch_size,
    )


def _spots(prompt: Tokens, target: Tokens) -> list[_Spot]:
    return [(len(prompt) - 1 + step, token) for step, token in enumerate(target)]


def _covering(texts: Sequence[Tokens]) -> dict[Tokens, Tokens]:
    """For each text, one of `texts` that begins with it: a longer one where there is one, or itself."""
    covers: dict[Tokens, Tokens] = {}
    longer: Tokens = ()
    # A text's extensions follow it directly in lexical order.
    for text in sorted(set(texts), reverse=True):
        if longer[: len(text)] != text:
            longer = text
        covers[text] = longer
    return covers


def _blocks(items: Iterator["_Row"], size: int) -> Iterator[list["_Row"]]:
    block: list[_Row] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _tokenizer(folder_or_id: str) -> tuple[Callable[[str], Tokens], Tokens]:
    file = Path(folder_or_id) / "tokenizer.json"
    if file.is_file():
        # Half the time of AutoTokenizer, which parses the same file and then builds a second vocabulary.
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(file))
        start = tuple(fast.encode("").ids[:1])  # What the tokenizer itself puts first: Gemma's <bos>, Qwen's nothing.
        return lambda text: tuple(fast.encode(text, add_special_tokens=False).ids), start
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(folder_or_id)
    return lambda text: tuple(slow.encode(text, add_special_tokens=False)), tuple(slow.encode("")[:1])


def _digest_of_weights(folder_or_id: str) -> str:
    """sha256 over the weight files' bytes, in the order of their names."""
    folder = Path(folder_or_id)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(folder_or_id, local_files_only=True, allow_patterns=["*.safetensors"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise OSError(f"no .safetensors file in {folder}")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
