"""A causal language model that gives probabilities of given words; it generates no text.

Any transformer works that the library transformers loads as a causal language model, from a local folder or the Hub.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tokens = tuple[int, ...]

# Part of the vocabulary that is multiplied at once: the logits of a thousand states then take 8 MB, not 1 GB, and those
# of a few states stay in the processor's cache.
_VOCABULARY_BLOCK = 2048
# Continuations in one forward pass: they are short, so more of them fit than whole texts.
_CONTINUATIONS = 64
# A packed text is read when it has this many tokens. More would not be faster, and attention grows with the square.
_PACKED_TOKENS = 256


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
        """Return `log p(continuation | prompt)` in nats, summed over the continuation's tokens, for each request."""
        return [sum(tokens) for tokens in self.token_log_likelihoods(requests)]

    def token_log_likelihoods(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, ...]]:
        """Return the log-probability in nats of each token of the continuation, for each (prompt, continuation).

        A continuation includes the space that separates it from its prompt. Each prompt is read once, whatever the
        number of its continuations. A result does not depend on the other requests of the call, up to float32 rounding.
        """
        wanted = dict[str, dict[str, None]]()
        for prompt, target in requests:
            wanted.setdefault(prompt, {})[target] = None
        # An order that depends on the texts alone.
        ordered = sorted(wanted, key=lambda prompt: (len(self.encode(prompt)), prompt))
        found: dict[tuple[str, str], tuple[float, ...]] = {}
        packed = _Packed(self)
        for prompt in ordered:
            for first in range(0, len(targets := sorted(wanted[prompt])), _CONTINUATIONS):
                packed.add(prompt, targets[first : first + _CONTINUATIONS])
                if packed.length >= _PACKED_TOKENS:
                    found |= packed.read()
                    packed = _Packed(self)
        if packed.length:
            found |= packed.read()
        return [found[request] for request in requests]

    def last_states(self, prompts: Sequence[str]) -> "torch.Tensor":
        """Return the hidden states, float32 (N, width), from which the first token after each prompt is predicted."""
        import torch

        order = sorted(range(len(prompts)), key=lambda number: len(self.encode(prompts[number])))
        states = torch.empty(len(prompts), self.head.shape[1], device=self.head.device)
        with torch.inference_mode():
            for first in range(0, len(order), self.batch_size):
                block = order[first : first + self.batch_size]
                ids, lengths = _padded([self.start + self.encode(prompts[number]) for number in block])
                # Padding is on the right, which causal attention does not see from a real token: no mask is needed.
                read = self.body(input_ids=ids.to(self.head.device), use_cache=False).last_hidden_state
                states[block] = read[range(len(block)), lengths - 1]
        return states

    def log_normalisers(self, states: "torch.Tensor") -> "torch.Tensor":
        """Return for each hidden state of (N, width) the log of the sum over the vocabulary of `exp(logit)`."""
        import torch

        with torch.inference_mode():
            total = torch.full((len(states),), -torch.inf, device=states.device)
            for first in range(0, len(self.head), _VOCABULARY_BLOCK):
                logits = self._capped(states @ self.head[first : first + _VOCABULARY_BLOCK].T)
                total = torch.logaddexp(total, logits.logsumexp(dim=-1))
            return total

    def token_logits(self, states: "torch.Tensor", tokens: Sequence[int]) -> "torch.Tensor":
        """Return the logits (N, T) of some tokens for hidden states of (N, width)."""
        import torch

        with torch.inference_mode():
            return self._capped(states @ self.head[list(tokens)].T)

    def paired_logits(self, states: "torch.Tensor", tokens: "torch.Tensor") -> "torch.Tensor":
        """Return the logit (N) of one token, of int64 (N), for each hidden state of (N, width)."""
        import torch

        with torch.inference_mode():
            return self._capped((states * self.head[tokens]).sum(-1))

    def overlaps(self, states: "torch.Tensor", normalisers: "torch.Tensor") -> "torch.Tensor":
        """Return the Bhattacharyya coefficients (N, N), 0..1, of the next-token distributions of N hidden states."""
        import torch

        with torch.inference_mode():
            found = torch.zeros(len(states), len(states), device=states.device)
            for first in range(0, len(self.head), _VOCABULARY_BLOCK):
                logits = self._capped(states @ self.head[first : first + _VOCABULARY_BLOCK].T)
                roots = logits.sub_(normalisers[:, None]).div_(2).exp_()
                found += roots @ roots.T
            return found

    def _capped(self, logits: "torch.Tensor") -> "torch.Tensor":
        return logits if self.soft_cap is None else self.soft_cap * (logits / self.soft_cap).tanh()


class _Packed:
    """Prompts with their continuations one after the other in a single text, which one forward pass reads.

    Nothing is padded, and the weights are read once. A mask lets each token see its own prompt and continuation only,
    at the positions that they would have alone.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._ids: list[int] = []
        self._positions: list[int] = []
        # The first token of each part, and of the prompt that it continues; a prompt continues itself.
        self._parts: list[tuple[int, int, int]] = []
        self._asked: list[tuple[tuple[str, str], Tokens, int, int]] = []

    @property
    def length(self) -> int:
        """The number of tokens."""
        return len(self._ids)

    def add(self, prompt: str, targets: Sequence[str]) -> None:
        """Add a prompt with some continuations of it."""
        start = self.length
        self._append(self._model.start + self._model.encode(prompt), start, 0)
        end = self.length
        for target in targets:
            tokens = self._model.encode(target)
            # What the last token predicts is not asked.
            self._asked.append(((prompt, target), tokens, end - 1, self.length))
            self._append(tokens[:-1], start, end - start)

    def _append(self, tokens: Tokens, prompt: int, position: int) -> None:
        if tokens:
            self._parts.append((self.length, len(tokens), prompt))
            self._ids += tokens
            self._positions += range(position, position + len(tokens))

    def read(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """Return the log-probability of each token of each continuation, by (prompt, continuation)."""
        import torch

        device = self._model.head.device
        with torch.inference_mode():
            read = self._model.body(
                input_ids=torch.tensor([self._ids], device=device),
                attention_mask=self._mask().to(device),
                position_ids=torch.tensor([self._positions], device=device),
                use_cache=False,
            ).last_hidden_state[0]
            places = [
                place
                for _, tokens, end, begin in self._asked
                if tokens
                for place in (end, *range(begin, begin + len(tokens) - 1))
            ]
            tokens = torch.tensor([token for asked in self._asked for token in asked[1]], dtype=torch.long)
            used = sorted(set(places))
            row = {place: number for number, place in enumerate(used)}
            normalisers = self._model.log_normalisers(read[used])[[row[place] for place in places]]
            values = iter((self._model.paired_logits(read[places], tokens.to(device)) - normalisers).tolist())
        return {request: tuple(next(values) for _ in tokens) for request, tokens, _, _ in self._asked}

    def _mask(self) -> "torch.Tensor":
        """Return what each token sees, float32 (1, 1, T, T): 0, or the lowest number for what it does not see."""
        import torch

        seen = torch.zeros(self.length, self.length, dtype=torch.bool)
        lengths = {start: length for start, length, prompt in self._parts if start == prompt}
        for start, length, prompt in self._parts:
            own = slice(start, start + length)
            seen[own, own] = torch.ones(length, length, dtype=torch.bool).tril()
            if start != prompt:
                seen[own, prompt : prompt + lengths[prompt]] = True
        mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
        return mask[None, None]


class Prefixes:
    """Prompts that were read once, with their keys and values, so that a continuation costs its own tokens only.

    `states` are the hidden states, float32 (N, width), from which the first token after each prompt is predicted.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[str]) -> None:
        import torch

        self._model = model
        ids, self._lengths = _padded([model.start + model.encode(prompt) for prompt in prompts])
        with torch.inference_mode():
            read = model.body(input_ids=ids.to(model.head.device), use_cache=True)
            self.states: torch.Tensor = read.last_hidden_state[range(len(ids)), self._lengths - 1]
            self._kept = read.past_key_values
        self._normalisers: torch.Tensor | None = None

    @property
    def normalisers(self) -> "torch.Tensor":
        """The log-normalisers (N) of `states`."""
        if self._normalisers is None:
            self._normalisers = self._model.log_normalisers(self.states)
        return self._normalisers

    def log_likelihoods(self, requests: Sequence[tuple[int, str]]) -> list[tuple[float, ...]]:
        """Return the log-probability of each token of the continuation, for each (number of a prompt, continuation)."""
        import torch

        coded = [(prompt, self._model.encode(target)) for prompt, target in requests]
        # Similar lengths together; a stable sort keeps an order that depends on the requests alone.
        longer = sorted((n for n, (_, tokens) in enumerate(coded) if len(tokens) > 1), key=lambda n: len(coded[n][1]))
        further = torch.cat(
            [
                self._further_states([coded[n] for n in longer[begin : begin + _CONTINUATIONS]])
                for begin in range(0, len(longer), _CONTINUATIONS)
            ]
            or [self.states[:0]]
        )
        states = torch.cat([self.states[[prompt for prompt, tokens in coded if tokens]], further])
        tokens = [tokens[0] for _, tokens in coded if tokens] + [token for n in longer for token in coded[n][1][1:]]
        logits = self._model.paired_logits(states, torch.tensor(tokens, dtype=torch.long, device=states.device))
        firsts = [prompt for prompt, tokens in coded if tokens]
        values = iter((logits - self._normalisers_with(firsts, further)).tolist())
        found = [[next(values)] if tokens else [] for _, tokens in coded]
        for n in longer:
            found[n] += [next(values) for _ in coded[n][1][1:]]
        return [tuple(logs) for logs in found]

    def _normalisers_with(self, prompts: list[int], further: "torch.Tensor") -> "torch.Tensor":
        """The log-normalisers of some prompts' states and of further states; reads the output matrix once."""
        import torch

        if self._normalisers is None:
            both = self._model.log_normalisers(torch.cat([self.states, further]))
            self._normalisers = both[: len(self.states)]
            return torch.cat([self._normalisers[prompts], both[len(self.states) :]])
        if not len(further):
            return self._normalisers[prompts]
        return torch.cat([self._normalisers[prompts], self._model.log_normalisers(further)])

    def _further_states(self, coded: Sequence[tuple[int, Tokens]]) -> "torch.Tensor":
        """The hidden states, (all of them, width), that predict each continuation's tokens from the second on."""
        import torch

        device = self._model.head.device
        rows = torch.tensor([prompt for prompt, _ in coded])
        ids, lengths = _padded([tokens[:-1] for _, tokens in coded])
        before, width = self._lengths[rows], int(self._lengths.max())
        # Between the end of a shorter prompt and its continuation are padded places, which must not be seen.
        seen = torch.cat([torch.arange(width) < before[:, None], torch.ones(ids.shape, dtype=torch.bool)], dim=1)
        kept = copy.deepcopy(self._kept)
        kept.batch_select_indices(rows.to(device))
        with torch.inference_mode():
            states: torch.Tensor = self._model.body(
                input_ids=ids.to(device),
                attention_mask=seen.long().to(device),
                position_ids=(before[:, None] + torch.arange(ids.shape[1])).to(device),
                past_key_values=kept,
                use_cache=True,
            ).last_hidden_state
        return states[(torch.arange(ids.shape[1]) < lengths[:, None]).to(device)]


def _padded(texts: Sequence[Tokens]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The texts as rows of token ids, padded on the right, and their lengths; both int64."""
    import torch

    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return ids, lengths
