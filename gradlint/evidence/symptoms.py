"""What else the moments say about training, beside the gradient's gain: collapse, scale of the output, size of a step.

The gain tells whether early layers hear of the loss. A network can fail with a healthy one:

* *correlation collapse*: different samples arrive at the same hidden state, ``1 − ρ → 0``; the loss then has one steep direction
  (the answer that all samples share) and all others are flat by the factor ``1 − ρ`` (Schoenholz et al. 2017,
  arXiv:1611.01232, §3; Dong et al. 2021, arXiv:2103.03404, for tokens under attention);
* *output scale*: logits of variance v add v/2 to ``ln C``, and far more where v is large; the loss at initialisation is then far
  from that of a network that knows nothing;
* *sharpness*: one step of SGD moves an output by the learning rate times the neural tangent kernel
  ``Θ = Σ_θ (∂output/∂θ)²`` times the error there (Jacot et al. 2018, arXiv:1806.07572); beyond ``lr · Θ ≈ 2`` it overshoots,
  and far below it nothing moves (Lee et al. 2019, arXiv:1902.06720, §2.2; Xiao et al. 2020, arXiv:1912.13053).

Everything is a property of the laws of the weights and of white-noise inputs, as all else in gradlint. ``None`` means unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradlint.evidence.calls import Ops
from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.paths import Paths

__all__ = ["Collapse", "Symptoms", "find_symptoms"]


@dataclass(frozen=True)
class Collapse:
    """How alike the entries along one axis of a tensor are.

    Args:
        node: whose output it is.
        log2: of ``1 − ρ``, ρ the correlation (about zero, not about the mean) of two entries that differ in the axis only.
    """

    node: str
    log2: float


@dataclass(frozen=True)
class Symptoms:
    """Of one model.

    Args:
        output: log2 of the output's rms; None where it is zero or unknown.
        samples: collapse of samples in every tensor that all gradient passes, from the input to the output.
        tokens: the same along the second axis of tensors with three axes, of different positions in one sample.
        sharpness: log2 of ``Θ``, the squared gradient of one output entry summed over all trainable parameters.
        lasting: the same without the parameters whose slope at the start says nothing of a step: zeros, and weights whose scale a
            norm takes out again.
        first: log2 of the share of ``Θ`` that the first weight's parameters have, in norm; None without a first weight.
        band: bits between the largest and the smallest gradient norm of a weight with two or more axes; zeros left out.
        saturation: the most saturated activation: log2 of its slope's rms, and its node.
        peak: log2 of the largest rms of an activation.
        outputs: size of the output's last axis.
    """

    output: float | None
    samples: tuple[Collapse, ...]
    tokens: tuple[Collapse, ...]
    sharpness: float | None
    lasting: float | None
    first: float | None
    band: float | None
    saturation: tuple[float, str] | None
    peak: float | None
    outputs: int

    @property
    def curvature(self) -> float | None:
        """log2 of the loss's steepest curvature at initialisation, ``Θ`` times that of the loss in the output.

        The loss is not known. One output is taken for a mean squared error, whose second derivative is 2; C outputs for the
        logits of a cross entropy, whose second derivative is near 1/C as long as they say nothing. Samples are taken to pull in
        one direction: an upper bound, reached where they arrive alike.
        """
        return self._of_loss(self.sharpness)

    @property
    def lasting_curvature(self) -> float | None:
        """The same of what a step does not relax."""
        return self._of_loss(self.lasting)

    def _of_loss(self, sharpness: float | None) -> float | None:
        return None if sharpness is None else sharpness + (1.0 if self.outputs == 1 else -math.log2(self.outputs))

    @property
    def collapse(self) -> float | None:
        """log2 of ``1 − ρ`` of samples in the last hidden tensor: the input of the last weight on the spine."""
        return self.samples[-1].log2 if self.samples else None


def find_symptoms(flowed: Flowed, paths: Paths) -> Symptoms:
    """Read it off the moments of a model whose paths are known."""
    hidden = [s.end for s in reversed(paths.segments)]
    last = next((i for i, s in enumerate(paths.segments) if s.parameter is not None), len(paths.segments))
    hidden = hidden[: len(hidden) - last]  # of what lies behind the last weight the output's scale is judged
    final = _moments(flowed, flowed.traced.output)
    slopes = [(s.log2, s.start) for s in paths.segments if s.cause == "activation"]
    sizes = [m.rms for n in flowed.forward if (m := _moments(flowed, n)) is not None and math.isfinite(m.rms)]
    return Symptoms(
        _log2(None if final is None else final.rms),
        tuple(_collapses(flowed, hidden, 0)),
        tuple(_collapses(flowed, hidden, 1)),
        *_kernel(flowed, paths, final),
        min(slopes, default=None),
        _log2(max(sizes, default=0.0)),
        final.shape[-1] if final is not None and final.shape else 1,
    )


def _moments(flowed: Flowed, node: str) -> Moments | None:
    value = flowed.forward.get(node)
    return value if isinstance(value, Moments) else None


def _collapses(flowed: Flowed, nodes: Iterable[str], axis: int) -> Iterable[Collapse]:
    """Where an axis of samples (or of tokens) still has more than one entry, and the tensor is not zero."""
    size = _batch(flowed)
    for node in nodes:
        x = _moments(flowed, node)
        if x is None or len(x.dims) < (2, 3)[axis] or (axis == 1 and len(x.dims) != 3) or x.shape[0] != size:
            continue
        log2 = _log2(apart(x, axis))
        if log2 is not None:
            yield Collapse(node, log2)


def apart(x: Moments, axis: int) -> float | None:
    """``1 − ρ`` along an axis: the share of the mean square that differs between two entries; None of a zero tensor."""
    atoms = x.atoms(axis)
    if not atoms or x.q <= 0:
        return None
    constant = x.v[tuple(0 if a in atoms else slice(None) for a in range(x.v.ndim))]
    return max(float(x.v.sum() - constant.sum()), 0.0) / x.q


def _batch(flowed: Flowed) -> int:
    """Size of the first axis of the first input: samples, by the convention of all of torch but its recurrent modules."""
    return next((spec.shape[0] for spec in flowed.traced.inputs if spec.shape), 0)


_Log2 = float | None


def _kernel(flowed: Flowed, paths: Paths, final: Moments | None) -> tuple[_Log2, _Log2, _Log2, _Log2]:
    """Sharpness, all and lasting, the first weight's share, and the band."""
    records = flowed.traced.parameters
    energies: dict[str, float] = {}
    for name, record in records.items():
        if not record.requires_grad or name in flowed.unknown.parameters:
            continue
        found = flowed.rms(name, parameter=True)
        if found and math.isfinite(found):
            energies[name] = 2 * math.log2(found) + math.log2(math.prod(record.shape))
    if not energies or final is None:
        return None, None, None, None
    forgiving = _forgiving(flowed)
    total, size = _added(list(energies.values())), math.log2(math.prod(final.shape))
    lasting = _added([e for name, e in energies.items() if name not in forgiving] or list(energies.values()))
    weights = [e for name, e in energies.items() if len(records[name].shape) > 1]
    band = (max(weights) - min(weights)) / 2 if weights else None
    first = next((s.parameter for s in reversed(paths.segments) if s.parameter in energies), None)
    share = None if first is None else (energies[first] - total) / 2
    return total - size, lasting - size, share, band


def _forgiving(flowed: Flowed) -> set[str]:
    """Parameters whose slope at the start says nothing of a step: zeros, and weights and rows whose scale a norm takes out again.

    Of the ones the gradient is as large as they are small, and a step makes them longer (van Laarhoven 2017, arXiv:1706.05350);
    the others leave zero, where a norm behind them divides by its epsilon, with the first step.
    """
    found = {name for name, record in flowed.traced.parameters.items() if record.law.mean == 0 and record.law.std == 0}
    ops = Ops(flowed)
    found.update(layer.weight for layer in ops.layers() if layer.normalised)
    tables = ops.tables()
    for call in ops.calls.values():
        rows = {ref.parameter for ref in call.inputs if ref.parameter} & tables
        found.update(rows if rows and ops.normalised(call.name) else ())
    return found


def _added(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log2(sum(2.0 ** (x - top) for x in logs))


def _log2(x: float | None) -> float | None:
    return math.log2(x) if x is not None and 0.0 < x < math.inf else None
