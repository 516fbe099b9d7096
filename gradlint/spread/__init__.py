"""How far the gradient of one draw of the weights lies from the mean over draws.

The mean square of a gradient over initialisations is what :mod:`gradlint.flow` predicts. In a deep narrow network it is the
work of rare draws: the squared norm is a product of one random factor per layer, so its logarithm is (nearly) Gaussian, with a
variance that adds up along depth (Hanin 2018, arXiv:1801.03744; Hanin & Nica 2019, arXiv:1812.05994: ``5 Σ 1/n`` for ReLU
layers of width n, ``2 Σ 1/n`` for linear ones), and the median lies at e^(−variance/2) of the mean.

Every tensor and every gradient has one number here, its squared norm over the mean one, and :data:`~gradlint.spread.draws.COUNT`
draws of it are followed through the graph, forward and backward:

* *fresh weights* make an array that is Gaussian given what it is made of: the squared norm gains a factor with as many degrees of
  freedom as the array has (:mod:`~gradlint.spread.freedom`); an orthogonal matrix that does not project gains none;
* a *scalar function* gains what its square (its slope's square) does not owe to the scale of its argument
  (:mod:`~gradlint.spread.scalar`), ``3/n`` for ReLU;
* a *norm* forgets the scale on the way forward and divides the gradient by it on the way back;
* *sums* add squared norms: what both terms have in common stays, the rest averages out by their shares of the energy, so that
  a skip connection carries no fluctuation;
* in a *batch* only what the samples have in common survives the sum: weights, and gradients that are aligned by accident,
  where the output or a layer has few features (``overlap``).

Assumed: weights used twice are taken as fresh each time; positions of one sample fluctuate together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradlint.flowed import Flowed
from gradlint.spread.backward import Backward
from gradlint.spread.draws import Draws
from gradlint.spread.forward import Forward
from gradlint.spread.scale import Scale, Spread

__all__ = ["Spread", "Spreads", "spread_of"]


@dataclass(frozen=True)
class Spreads:
    """Of every tensor and gradient, by node and by parameter name; absent where nothing is known or no gradient arrives.

    Absent as well behind ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``: what one matrix does in many steps is not followed.
    """

    forward: Mapping[str, Scale]
    backward: Mapping[str, Scale]
    parameters: Mapping[str, Scale]


def spread_of(flowed: Flowed) -> Spreads:
    """Spreads of all that was predicted; none for a model whose weights are given (an instance): they are not drawn."""
    matrices = [record for record in flowed.traced.parameters.values() if len(record.law.moments.shape) > 1]
    if matrices and all(record.law.kind == "values" for record in matrices):
        return Spreads({}, {}, {})
    draws = Draws()
    forward = Forward(flowed, draws)
    backward = Backward(flowed, draws, forward)
    return Spreads(*(_known(scales) for scales in (forward.scales, backward.scales, backward.parameters)))


def _known(scales: Mapping[str, Scale]) -> dict[str, Scale]:
    return {name: scale for name, scale in scales.items() if scale.known and scale.spread.consistent}
