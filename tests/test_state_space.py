"""A linear-Gaussian state space, whose likelihood, forecasts and unusual values the Kalman filter knows exactly.

A state of two numbers turns by 15 degrees in a step and shrinks a little, with a small disturbance; three channels
observe it with noise.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.model import Model

Array = NDArray[np.float64]
STEPS, CHANNELS = 36, 3
ANGLE = math.radians(15)
TURN = 0.99 * np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
OBSERVED = np.array([[1.0, 0.0], [0.5, 0.8], [-0.3, 1.0]])
DISTURBANCE, NOISE = 0.05, 0.4


def series(n: int, seed: int) -> Array:
    """Draw n series, (n, STEPS, CHANNELS)."""
    rng = np.random.default_rng(seed)
    state, x = rng.normal(size=(n, 2)), np.empty((n, STEPS, CHANNELS))
    for t in range(STEPS):
        x[:, t] = state @ OBSERVED.T + NOISE * rng.normal(size=(n, CHANNELS))
        state = state @ TURN.T + DISTURBANCE * rng.normal(size=(n, 2))
    return x


def kalman(x: Array, known: int = STEPS) -> tuple[Array, Array]:
    """Return log p of the first `known` steps, (n,), and the expected values of each step given known ones before."""
    n = len(x)
    mean, covariance = np.zeros((n, 2)), np.eye(2)
    log_p, expected = np.zeros(n), np.empty_like(x)
    for t in range(x.shape[1]):
        expected[:, t] = mean @ OBSERVED.T
        if t < known:
            spread = OBSERVED @ covariance @ OBSERVED.T + NOISE**2 * np.eye(CHANNELS)
            surprise = x[:, t] - expected[:, t]
            log_p -= 0.5 * np.einsum("ni,ij,nj->n", surprise, np.linalg.inv(spread), surprise)
            log_p -= 0.5 * np.linalg.slogdet(2 * math.pi * spread)[1]
            gain = covariance @ OBSERVED.T @ np.linalg.inv(spread)
            mean, covariance = mean + surprise @ gain.T, covariance - gain @ OBSERVED @ covariance
        mean, covariance = mean @ TURN.T, TURN @ covariance @ TURN.T + DISTURBANCE**2 * np.eye(2)
    return log_p, expected


def joint_covariance() -> Array:
    """The covariance of all values of a series, (STEPS * CHANNELS,) squared."""
    states = np.zeros((STEPS, STEPS, 2, 2))
    states[0, 0] = np.eye(2)
    for t in range(1, STEPS):
        states[t, t] = TURN @ states[t - 1, t - 1] @ TURN.T + DISTURBANCE**2 * np.eye(2)
        for s in range(t):
            states[t, s] = TURN @ states[t - 1, s]
            states[s, t] = states[t, s].T
    whole = np.einsum("ia,tsab,jb->tisj", OBSERVED, states, OBSERVED).reshape(STEPS * CHANNELS, -1)
    return np.asarray(whole + NOISE**2 * np.eye(len(whole)))


def test_the_filter_agrees_with_the_joint_gaussian() -> None:
    x, covariance = series(5, 3), joint_covariance()
    flat = x.reshape(5, -1)
    log_p = -0.5 * (np.einsum("ni,ij,nj->n", flat, np.linalg.inv(covariance), flat))
    log_p -= 0.5 * np.linalg.slogdet(2 * math.pi * covariance)[1]
    np.testing.assert_allclose(kalman(x)[0], log_p)
    known = 12 * CHANNELS
    ahead = flat[:, :known] @ np.linalg.solve(covariance[:known, :known], covariance[:known, known:])
    np.testing.assert_allclose(kalman(x, 12)[1][:, 12:].reshape(5, -1), ahead)


@pytest.mark.slow
def test_bounds_and_forecasts_come_near_the_filter_and_a_planted_anomaly_is_found() -> None:
    model = Model(
        "vae", network="gru", latent=12, width=64, lr=3e-3, batch=64, clip=5.0, warmup=300, epochs=60, seed=0,
        progress=False,
    ).fit([*series(2000, 0)])  # fmt: skip
    new = series(300, 1)
    exact = kalman(new)[0]
    bound = model.score_samples([*new], in_units=True)
    gap = exact - bound
    half = STEPS // 2
    forecasts = model.forecast([*new[:, :half]], STEPS - half)
    means = np.stack([frame[[c for c in frame if c.endswith("_mean")]].to_numpy() for frame in forecasts])
    low, high = (
        np.stack([frame[[c for c in frame if c.endswith(f"_q{level}")]].to_numpy() for frame in forecasts])
        for level in (0.1, 0.9)
    )
    true, optimal = new[:, half:], kalman(new, half)[1][:, half:]
    error, least = (float(np.sqrt(np.mean((guess - true) ** 2))) for guess in (means, optimal))
    coverage = float(np.mean((low <= true) & (true <= high)))
    changed = new.copy()
    rng = np.random.default_rng(2)
    steps, channels = rng.integers(STEPS, size=300), rng.integers(CHANNELS, size=300)
    changed[np.arange(300), steps, channels] += 5 * NOISE
    scores = model.anomaly([*changed]).filter(regex="^anomaly_").to_numpy().reshape(300, STEPS, CHANNELS)
    found = scores.reshape(300, -1).argmax(1) == steps * CHANNELS + channels
    # the filter's own answer: the leave-one-out density of each value under the joint Gaussian
    precision = np.linalg.inv(joint_covariance())
    away = changed.reshape(300, -1) @ precision / np.sqrt(precision.diagonal())
    best = np.abs(away).argmax(1) == steps * CHANNELS + channels
    print(
        f"log p(x) {exact.mean():.2f}, bound {bound.mean():.2f}, gap {gap.mean():.2f} nats; forecast error {error:.4f}"
        f", the filter's {least:.4f}; coverage of 80% {coverage:.3f}; planted values found {found.mean():.3f}, at best "
        f"{best.mean():.3f}"
    )
    assert 0 < gap.mean() < 4
    assert least < error < 1.05 * least
    assert coverage == pytest.approx(0.8, abs=0.03)
    assert found.mean() > 0.9 * best.mean()
