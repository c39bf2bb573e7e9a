"""scikit-learn's L2 logistic regression for features that are wider than the sample, in their row space.

Symbols: n sentences, p > n features, K classes, X (n, p) features with columns of mean 0, G = XXᵀ (n, n), Y
one-hot labels, P softmax probabilities, W (p, k) weights, b (k,) intercepts, λ = 1/(Cn); k = K, but 1 for two
classes: the first class's logit is then 0, as in scikit-learn.

The objective is scikit-learn's, ``mean over sentences of −log P[i, y_i] + λ/2 ‖W‖²``. Its gradient is
``Xᵀ(P − Y)/n + λW``, so from W = 0 on everything that a gradient method meets lies in the row space of X:
weights, gradients and directions are kept as A (n, k) with ``W = XᵀA``, beside their images ``XW = GA``.
Inner products are ``⟨XᵀA, XᵀB⟩ = Σ A∘(GB)``, whatever the rank of X; nothing is truncated. The image of a
combination is the combination of the images, so a line search needs no product with X, and an iteration needs
one product with G: as X(XᵀA), or with G itself once the iterations have done as much work as it takes to form
G (then an iteration costs 2n²k operations in place of 4npk).

The iterates are those that scipy's L-BFGS-B makes of W and b, as scikit-learn calls it, up to rounding. That
matters: at scikit-learn's tolerance it stops early, far from the optimum, where the path decides the result.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

_PAIRS = 10  # steps that L-BFGS remembers; scipy's default
_RELATIVE_DECREASE = 64 * np.finfo(np.float64).eps  # scikit-learn's second stopping rule
_LINE_SEARCH_STEPS = 50  # as in scikit-learn
_CHECK_EVERY = 5  # iterations between two looks at the largest entry of the gradient, far from the end


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A fitted probe.

    Attributes
    ----------
    weights : numpy.ndarray of shape (p, k)
        One column a class; one in all for two classes.
    intercepts : numpy.ndarray of shape (k,)
    n_iter : int
        Iterations of L-BFGS.
    converged : bool
        Whether a stopping rule ended it, rather than `max_iter`.
    """

    weights: np.ndarray
    intercepts: np.ndarray
    n_iter: int
    converged: bool

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        """Decision values ``(m, k)``, float64, of features ``(m, p)`` on the scale of the fit."""
        return (features @ self.weights).astype(np.float64) + self.intercepts

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Class codes ``(m,)`` of features ``(m, p)``."""
        values = self.decision_function(features)
        return (values[:, 0] > 0).astype(np.int64) if values.shape[1] == 1 else values.argmax(axis=1)


class GramOperator:
    """Products with G = XXᵀ, which is formed when that has become the cheaper way; shared by several fits.

    Parameters
    ----------
    features : numpy.ndarray of shape (n, p), float32
        X: columns of mean 0.
    """

    def __init__(self, features: np.ndarray) -> None:
        self.features = features
        self._gram: np.ndarray | None = None
        self._spent = 0.0  # operations that products with G itself would have saved so far

    @property
    def formed(self) -> bool:
        """Whether G has been formed."""
        return self._gram is not None

    def weights(self, coefficients: np.ndarray) -> np.ndarray:
        """``XᵀA``, (p, k) float32, of A (n, k)."""
        return self.features.T @ coefficients.astype(np.float32)

    def image(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """``GA`` (n, k), float64, of A (n, k); and XᵀA (p, k), where it came about on the way."""
        n, p = self.features.shape
        k = coefficients.shape[1]
        if self._gram is None and self._spent >= n * n * p:  # one triangle of G: n²p operations
            self._gram = self.features @ self.features.T
        if self._gram is not None:
            return (self._gram @ coefficients.astype(np.float32)).astype(np.float64), None
        self._spent += 4 * n * p * k - 2 * n * n * k
        weights = self.weights(coefficients)
        return (self.features @ weights).astype(np.float64), weights


@dataclass(frozen=True, eq=False)
class _Vector:
    """A vector (W, b) of the row space: A, its image GA, both (n, k), and b (k,); float64."""

    coefficients: np.ndarray
    image: np.ndarray
    intercepts: np.ndarray

    def dot(self, other: _Vector) -> float:
        return float(np.vdot(self.coefficients, other.image) + self.intercepts @ other.intercepts)

    def plus(self, step: float, other: _Vector) -> _Vector:
        return _Vector(
            self.coefficients + step * other.coefficients,
            self.image + step * other.image,
            self.intercepts + step * other.intercepts,
        )

    @property
    def logits(self) -> np.ndarray:
        return self.image + self.intercepts


@dataclass(frozen=True, eq=False)
class _State:
    """A point, the objective there, its gradient, and the largest entry of that by W and b, where known."""

    point: _Vector
    value: float
    gradient: _Vector
    largest: float | None


@dataclass(frozen=True, eq=False)
class _Request:
    """What a fit asks for before it can go on: GA or, if only those, the weights XᵀA, of A (n, k)."""

    coefficients: np.ndarray
    only_weights: bool = False


_Reply = tuple[np.ndarray | None, np.ndarray | None]  # GA and XᵀA
_T = TypeVar("_T")
_Steps = Generator[_Request, _Reply, _T]


def fit_logistic(
    operator: GramOperator,
    labels: Sequence[np.ndarray],
    *,
    C: float = 1.0,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> list[LogisticFit]:
    """Fit probes of several sets of labels to the same features, side by side.

    The probes do not depend on each other, but their products with the features are taken together: one of
    107 columns costs hardly more than one of 7.

    Parameters
    ----------
    operator : GramOperator
        Of the standardised training features.
    labels : sequence of numpy.ndarray of int, shape (n,)
        For each probe class codes 0 to K − 1, each of them there.
    C, tol, max_iter
        As for scikit-learn's ``LogisticRegression``.

    Returns
    -------
    list of LogisticFit
    """
    running = {i: _Problem(y, 1 / (C * len(y))).minimise(tol, max_iter) for i, y in enumerate(labels)}
    requests = {i: next(steps) for i, steps in running.items()}
    fits: dict[int, LogisticFit] = {}
    while requests:
        for i, reply in _answer(operator, requests).items():
            try:
                requests[i] = running[i].send(reply)
            except StopIteration as end:
                fits[i] = end.value
                del requests[i]
    return [fits[i] for i in range(len(labels))]


def _answer(operator: GramOperator, requests: Mapping[int, _Request]) -> dict[int, _Reply]:
    """Take the products of all requests of one kind together."""
    replies: dict[int, _Reply] = {}
    for only_weights in (False, True):
        asked = {i: r.coefficients for i, r in requests.items() if r.only_weights == only_weights}
        if not asked:
            continue
        ends = np.cumsum([a.shape[1] for a in asked.values()])[:-1]
        together = np.concatenate(list(asked.values()), axis=1)
        image, weights = (None, operator.weights(together)) if only_weights else operator.image(together)
        parts = [[None] * len(asked) if m is None else np.split(m, ends, axis=1) for m in (image, weights)]
        replies |= dict(zip(asked, zip(*parts, strict=True), strict=True))
    return replies


def _direction(gradient: _Vector, pairs: list[tuple[_Vector, _Vector]], length: float) -> _Vector:
    """L-BFGS direction; at first the negative gradient of length 1, as a first step in scipy."""
    zero = _Vector(*(np.zeros_like(part) for part in vars(gradient).values()))
    if not pairs:
        return zero.plus(-1 / length, gradient)
    q, alphas = zero.plus(-1, gradient), []
    for step, change in reversed(pairs):
        alphas.append(step.dot(q) / step.dot(change))
        q = q.plus(-alphas[-1], change)
    step, change = pairs[-1]
    q = zero.plus(step.dot(change) / change.dot(change), q)
    for (step, change), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q.plus(alpha - change.dot(q) / step.dot(change), step)
    return q


class _Problem:
    """The objective along lines, its gradient, and its minimisation; products with X are asked for."""

    def __init__(self, labels: np.ndarray, penalty: float) -> None:
        self._penalty = penalty
        self._labels = labels.astype(np.int64)
        self._classes = int(labels.max()) + 1
        self._k = 1 if self._classes == 2 else self._classes
        self._target = np.eye(self._classes)[self._labels][:, -self._k :]

    def minimise(self, tol: float, max_iter: int) -> _Steps[LogisticFit]:
        """Run L-BFGS from zero to scikit-learn's stopping rules."""
        state = yield from self._start()
        pairs: list[tuple[_Vector, _Vector]] = []
        share = 0.0  # the gradient's largest entry ÷ its length; it changes slowly
        iteration, converged = 0, False
        while True:
            length = np.sqrt(max(state.gradient.dot(state.gradient), 0.0))
            largest = state.largest
            if largest is None and (iteration % _CHECK_EVERY == 0 or share * length <= 4 * tol):
                _, weights = yield _Request(state.gradient.coefficients, only_weights=True)
                largest = _largest(weights, state.gradient.intercepts)
            if largest is not None:
                share = largest / max(length, np.finfo(np.float64).tiny)
                converged = converged or largest <= tol
            if converged or iteration == max_iter:
                break
            following = yield from self._follow(state, _direction(state.gradient, pairs, length))
            step = following.point.plus(-1, state.point)
            change = following.gradient.plus(-1, state.gradient)
            if step.dot(change) > 0:
                pairs = [*pairs, (step, change)][-_PAIRS:]
            scale = max(abs(state.value), abs(following.value), 1.0)
            converged = state.value - following.value <= _RELATIVE_DECREASE * scale
            state, iteration = following, iteration + 1
        _, weights = yield _Request(state.point.coefficients, only_weights=True)
        return LogisticFit(weights, state.point.intercepts, iteration, converged)

    def _start(self) -> _Steps[_State]:
        zeros = np.zeros((len(self._labels), self._k))
        loss, residual = self._loss(zeros)
        return (yield from self._state(_Vector(zeros, zeros, np.zeros(self._k)), loss, residual))

    def _loss(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean loss and P − Y (n, k) at logits (n, k)."""
        full = np.pad(logits, ((0, 0), (self._classes - self._k, 0)))
        log_p = log_softmax(full, axis=1)
        loss = -float(np.take_along_axis(log_p, self._labels[:, None], axis=1).mean())
        return loss, np.exp(log_p[:, -self._k :]) - self._target

    def _state(self, point: _Vector, value: float, residual: np.ndarray) -> _Steps[_State]:
        coefficients = residual / len(residual) + self._penalty * point.coefficients
        image, weights = yield _Request(coefficients)
        gradient = _Vector(coefficients, image, residual.mean(axis=0))
        largest = None if weights is None else _largest(weights, gradient.intercepts)
        return _State(point, value, gradient, largest)

    def _follow(self, state: _State, direction: _Vector) -> _Steps[_State]:
        """Go along a direction as far as the line search says.

        The line search is scipy's own: in one dimension, from 0, L-BFGS-B tries a step of length 1 first.
        """
        point, slope = state.point, direction.dot(state.gradient)
        logits, along = point.logits, direction.logits
        square = np.vdot(point.coefficients, point.image)
        cross = np.vdot(point.coefficients, direction.image)
        quadratic = np.vdot(direction.coefficients, direction.image)

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            a = float(x[0])
            if a == 0:
                return state.value, np.array([slope])
            loss, residual = self._loss(logits + a * along)
            value = loss + self._penalty / 2 * (square + 2 * a * cross + a**2 * quadratic)
            inclination = np.vdot(residual, along) / len(residual) + self._penalty * (cross + a * quadratic)
            return float(value), np.array([inclination])

        options = {"maxiter": 1, "maxls": _LINE_SEARCH_STEPS, "gtol": 0.0, "ftol": 0.0}
        found = minimize(objective, np.zeros(1), jac=True, method="L-BFGS-B", options=options)
        point = point.plus(float(found.x[0]), direction)
        return (yield from self._state(point, float(found.fun), self._loss(point.logits)[1]))


def _largest(weights: np.ndarray, intercepts: np.ndarray) -> float:
    """Largest absolute entry of a gradient by W and b: scikit-learn's first stopping rule."""
    return max(float(np.abs(weights).max()), float(np.abs(intercepts).max()))
