"""Small worlds that scores are tried on: ordinary features, degenerate ones, odd networks."""

import torch

from rtk.scores import FitData, Predictions

CLASSES, DIMENSIONS = 12, 48


class World:
    """Non-negative features around class patterns, and a head that matches; OOD features are noise."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        self.patterns = torch.eye(CLASSES).repeat_interleave(DIMENSIONS // CLASSES, dim=1) * 4
        # Centred rows: more activation alone must not mean a larger logit.
        self.weight = self.patterns / 8 - self.patterns.mean(dim=0) / 8
        self.bias = torch.linspace(-0.1, 0.1, CLASSES)

    def known(self, count):
        labels = torch.randint(CLASSES, (count,), generator=self.generator)
        return self.said(self.patterns[labels] + self.noise(count, 0.4), labels)

    def unknown(self, count):
        return self.said(self.noise(count, 1.0), torch.full((count,), -1))

    def noise(self, count, size):
        return size * torch.randn(count, DIMENSIONS, generator=self.generator)

    def said(self, features, labels):
        features = features.relu()
        return Predictions(features @ self.weight.T + self.bias, features, labels)


def mislabel(predictions):
    labels = predictions.labels.clone()
    labels[::20] = (labels[::20] + 1) % CLASSES
    return Predictions(predictions.logits, predictions.features, labels)


def join(first, second):
    return Predictions(
        *(torch.cat([getattr(first, k), getattr(second, k)]) for k in ("logits", "features", "labels"))
    )


def as_double(predictions):
    return Predictions(predictions.logits.double(), predictions.features.double(), predictions.labels)


def with_head(fit, known, weight, bias):
    """The same features under another head."""

    def said(p):
        return Predictions(p.features @ weight.T + bias, p.features, p.labels)

    return FitData(said(fit.train), said(fit.validation), weight, bias), said(known)


def with_features(fit, known, change):
    """The same head on other features."""

    def said(p):
        features = change(p.features, p.labels)
        return Predictions(features @ fit.weight.T + fit.bias, features, p.labels)

    return FitData(said(fit.train), said(fit.validation), fit.weight, fit.bias), said(known)


def with_equal_rows(fit, known, bias_gap):
    """A head in which two classes share a row: no boundary lies between them."""
    weight, bias = fit.weight.clone(), fit.bias.clone()
    weight[1], bias[1] = weight[0], bias[0] + bias_gap
    return with_head(fit, known, weight, bias)


def with_wrong_labels(p):
    return Predictions(p.logits, p.features, (p.logits.argmax(1) + 1) % CLASSES)


def first(p, count):
    return Predictions(p.logits[:count], p.features[:count], p.labels[:count])


DEGENERATE = {
    "equal rows in the head": lambda fit, known: with_equal_rows(fit, known, 0.3),
    "equal rows and biases": lambda fit, known: with_equal_rows(fit, known, 0.0),
    "a head of zeros": lambda fit, known: with_head(fit, known, 0 * fit.weight, 0 * fit.bias),
    "one feature for all": lambda fit, known: with_features(fit, known, lambda f, _: torch.full_like(f, 2)),
    "no activation anywhere": lambda fit, known: with_features(fit, known, lambda f, _: 0 * f),
    "features of 1e-15": lambda fit, known: with_features(fit, known, lambda f, _: 1e-15 * f),
    "features of 1e12": lambda fit, known: with_features(fit, known, lambda f, _: 1e12 * f),
    "an image of 1e18": lambda fit, known: (
        fit,
        Predictions(known.logits, 1e18 * known.features, known.labels),
    ),
    "features close together": lambda fit, known: with_features(
        fit, known, lambda f, y: World().patterns[y] + 1e-5 * f
    ),
    "every prediction wrong": lambda fit, known: (
        FitData(with_wrong_labels(fit.train), with_wrong_labels(fit.validation), fit.weight, fit.bias),
        known,
    ),
    "one validation image": lambda fit, known: (
        FitData(fit.train, first(fit.validation, 1), fit.weight, fit.bias),
        known,
    ),
    "training images": lambda fit, known: (fit, first(fit.train, 20)),
}


def small_net(scale=1.0, bias=None):
    """Two convolutions and a head; given a bias, the head is that alone, so that no pixel matters."""
    torch.manual_seed(0)
    maps = [torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3), torch.nn.ReLU()]
    net = torch.nn.Sequential(*maps, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= scale
        if bias is not None:
            net[-1].weight.zero_()
            net[-1].bias.copy_(torch.tensor(bias))
    return net.eval()


NETS = {
    "ordinary": {},
    "saturated": {"scale": 30.0},
    "no gradient": {"bias": [5.0, 0.0, -5.0, 1.0, 2.0]},
    "no gradient, all tied": {"bias": [0.0] * 5},
    "dead": {"scale": 0.0},
}
