"""Our distribution over the next token against the reference processors', and draws against that distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from omni_rt.engine.qwen3_omni.sampler import (
    PREDICTOR,
    TALKER,
    THINKER,
    SamplingParams,
    SamplingRows,
    adjust,
    choose,
    probabilities,
    sample,
)
from tools.exact.draw import draw
from tools.exact.lines import Line

_DRAWS = 500


@dataclass(frozen=True, slots=True)
class _Case:
    """Rows of logits [B, V], each with its history and parameters; one suppression for all."""

    name: str
    logits: Tensor
    history: list[list[int]]
    suppressed: list[int]
    params: list[SamplingParams]

    def seen(self) -> Tensor:
        mask = torch.zeros(self.logits.shape, dtype=torch.bool)
        for row, tokens in enumerate(self.history):
            mask[row, tokens] = True
        return mask

    def suppression(self) -> Tensor:
        mask = torch.zeros(self.logits.shape[1], dtype=torch.bool)
        mask[self.suppressed] = True
        return mask

    def ours(self) -> Tensor:
        rows = SamplingRows.of(self.params, "cpu")
        return probabilities(adjust(self.logits, rows, seen=self.seen(), suppressed=self.suppression()), rows)

    def reference(self, row: int) -> Tensor:
        """[V]: the softmax of what the reference processors leave; of the likeliest alone when greedy."""
        history = torch.tensor([self.history[row]], dtype=torch.int64)
        scores = self._processors(self.params[row])(history, self.logits[row : row + 1].clone())[0]  # type: ignore[arg-type]
        if self.params[row].temperature:
            return scores.softmax(-1)
        return torch.nn.functional.one_hot(scores.argmax(), scores.numel()).float()

    def _processors(self, params: SamplingParams) -> LogitsProcessorList:
        processors = LogitsProcessorList()
        if params.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
        if self.suppressed:
            processors.append(SuppressTokensLogitsProcessor(self.suppressed))
        if params.temperature:
            processors.append(TemperatureLogitsWarper(float(params.temperature)))
            if params.top_k:
                processors.append(TopKLogitsWarper(params.top_k))
            if params.top_p < 1:
                processors.append(TopPLogitsWarper(params.top_p))
        return processors


def lines(seed: int) -> list[Line]:
    """The rows of the exactness table about sampling, everything drawn from the seed."""
    cases = _cases(draw(seed).rng("sampling"))
    return [*map(_distribution, cases), _alone(cases), *map(_drawn, cases[1:]), *map(_ends, cases)]


def _distribution(case: _Case) -> Line:
    ours = case.ours()
    errors = [(ours[row] - case.reference(row)).abs().max().item() for row in range(len(ours))]
    return Line(f"sampling, {case.name}: distribution = reference processors'", 1e-6, max(errors), ours.numel())


def _alone(cases: list[_Case]) -> Line:
    """A row's distribution does not depend on its neighbours' parameters."""
    differing = rows = 0
    for case in cases:
        together = case.ours()
        for row, params in enumerate(case.params):
            alone = _Case("", case.logits[row : row + 1], [case.history[row]], case.suppressed, [params]).ours()
            differing += not torch.equal(alone[0], together[row])
            rows += 1
    return Line("sampling: rows with other parameters in one batch = each alone", None, differing, rows)


def _drawn(case: _Case) -> Line:
    """Evenly spaced numbers meet each token in proportion to its probability, to within one draw."""
    uniform = (torch.arange(_DRAWS) + 0.5) / _DRAWS
    worst = 0.0
    for distribution in case.ours():
        tokens = sample(distribution.expand(_DRAWS, -1), uniform)
        share = torch.bincount(tokens, minlength=distribution.numel()) / _DRAWS
        worst = max(worst, (share - distribution).abs().max().item())
    return Line(f"sampling, {case.name}: share of draws = probability", 1.01 / _DRAWS, worst, _DRAWS * len(case.params))


def _ends(case: _Case) -> Line:
    """The smallest and the largest uniform number still give a token that may come; greedy rows the likeliest."""
    ours = case.ours()
    rows = SamplingRows.of(case.params, "cpu")
    wrong = 0
    for end in (0.0, float(np.nextafter(np.float32(1), np.float32(0)))):
        tokens = choose(
            case.logits, rows, torch.full((len(ours),), end), seen=case.seen(), suppressed=case.suppression()
        )
        wrong += int((ours.gather(1, tokens[:, None]) == 0).sum())
    return Line(f"sampling, {case.name}: impossible tokens at both ends of the draw", None, wrong, 2 * len(ours))


def _cases(rng: np.random.Generator) -> list[_Case]:
    return [
        _case(rng, "thinker", 152064, THINKER, rows=2, suppressed=[]),
        _case(rng, "talker", 3072, TALKER, rows=6, suppressed=[i for i in range(2048, 3072) if i != 2150]),
        _case(rng, "code predictor", 2048, PREDICTOR, rows=4, suppressed=[]),
        _case(rng, "drawn parameters", int(rng.integers(40, 400)), None, rows=12, suppressed=[0, 7, 8]),
        _narrow(rng),
    ]


def _case(
    rng: np.random.Generator, name: str, vocab: int, params: SamplingParams | None, *, rows: int, suppressed: list[int]
) -> _Case:
    """Half the rows are rounded, so that many logits tie; the last row of the released parameters is greedy."""
    logits = rng.normal(0, rng.uniform(1, 6), (rows, vocab))
    logits[::2] = np.round(logits[::2])
    history = [[int(t) for t in rng.integers(0, vocab, rng.integers(1, 60))] for _ in range(rows)]
    chosen = [_params(rng, vocab) for _ in range(rows)] if params is None else [params] * (rows - 1) + [params.greedy()]
    return _Case(name, torch.from_numpy(logits.astype(np.float32)), history, suppressed, chosen)


def _params(rng: np.random.Generator, vocab: int) -> SamplingParams:
    return SamplingParams(
        temperature=float(rng.choice([0.0, rng.uniform(0.1, 0.9), 1.0, rng.uniform(1.0, 2.0)])),
        top_k=int(rng.choice([0, 1, int(rng.integers(2, 30)), vocab, vocab + 9])),
        top_p=float(rng.choice([0.0, rng.uniform(0.05, 0.99), 1.0])),
        repetition_penalty=float(rng.choice([1.0, rng.uniform(0.7, 1.3)])),
    )


def _narrow(rng: np.random.Generator) -> _Case:
    """All tokens but one suppressed: whatever the parameters, that one comes."""
    vocab = 64
    params = [THINKER, TALKER, PREDICTOR, SamplingParams(), TALKER.greedy()]
    logits = torch.from_numpy(rng.normal(0, 3, (len(params), vocab)).astype(np.float32))
    only = int(rng.integers(vocab))
    return _Case("one token left", logits, [[only]] * len(params), [i for i in range(vocab) if i != only], params)
