"""The README's example: train, predict, differentiate, save, load."""

import numpy as np

import fastbp as fb

X = np.random.default_rng(0).uniform(-3, 3, (2000, 2))
y = np.sin(X[:, 0]) * np.cos(X[:, 1])

model = fb.Model(fb.mlp(2, 64, 64, 1, activation="silu"), seed=0)
result = fb.train(model, X, y, optimizer=fb.Adam(0.01), schedule="one_cycle", batch_size=32)
print(f"{result.message} Loss {result.loss:.1e}, {result.samples_per_second:,.0f} samples/s")

print(model.predict([[0.5, 0.5]]), np.sin(0.5) * np.cos(0.5))
print(model.jacobian([[0.5, 0.5]]))  # d output / d input
model.save("net.safetensors")
assert np.array_equal(fb.load("net.safetensors").predict(X), model.predict(X))
