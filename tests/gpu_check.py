"""Does the GPU work, for both frameworks? (`make gpu-check`)

Prints the driver, each framework's view of the GPU, its cuDNN and the time of a step of
training in float32. Without a GPU one line says what is missing; the exit status is 1.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

OLDEST_DRIVER = 570  # of CUDA 12.8
STEPS = 20
BATCH, WIDTH = 256, 4096


def driver() -> str:
    """The GPUs and their driver. Raises RuntimeError if it is missing or too old."""
    if not shutil.which("nvidia-smi"):
        raise RuntimeError(
            "no NVIDIA driver: nvidia-smi is not there; install the driver"
        )
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True)
    lines = result.stdout.strip().splitlines()
    if result.returncode or not lines:
        why = (result.stderr or result.stdout).strip().splitlines() or [
            "it says nothing"
        ]
        raise RuntimeError(f"the NVIDIA driver finds no GPU: {why[-1]}")
    version = lines[0].rsplit(", ", 1)[-1]
    if int(version.split(".")[0]) < OLDEST_DRIVER:
        raise RuntimeError(
            f"the NVIDIA driver {version} is too old for CUDA 12.8: install "
            f"{OLDEST_DRIVER} or newer"
        )
    return "; ".join(line.replace(", ", ", driver ") for line in lines)


def milliseconds(step: Callable[[], float]) -> float:
    """Mean time of a step, which ends by fetching its loss; the first ones warm up."""
    first = [step() for _ in range(3)][0]
    start = time.perf_counter()
    loss = [step() for _ in range(STEPS)][-1]
    elapsed = 1000 * (time.perf_counter() - start) / STEPS
    if not loss < first:
        raise RuntimeError(f"the loss did not fall: {first} at first, then {loss}")
    return elapsed


def unseen(framework: str) -> RuntimeError:
    """The error of a framework that finds no GPU where the driver has one."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "install requirements.txt, whose wheels bring CUDA"
    if hidden is not None:
        hint = f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it"
    return RuntimeError(f"{framework} sees no GPU: {hint}")


def pytorch() -> str:
    """One training step in PyTorch."""
    import torch
    from torch import nn

    if not torch.cuda.is_available():
        raise unseen("PyTorch")
    torch.backends.cuda.matmul.allow_tf32 = False
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    model = model.cuda()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    x = torch.randn(BATCH, WIDTH, device="cuda")
    y = torch.randint(10, (BATCH,), device="cuda")

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    ms = milliseconds(step)
    name, cudnn = torch.cuda.get_device_name(), torch.backends.cudnn.version()
    return f"PyTorch {torch.__version__}: {name}, cuDNN {cudnn}, {ms:.2f} ms"


def tensorflow() -> str:
    """One training step in TensorFlow with Keras."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever keras.json says
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # PyTorch has some, too
    import keras
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        raise unseen("TensorFlow")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    layers = keras.layers.Dense(WIDTH, activation="relu"), keras.layers.Dense(10)
    model = keras.Sequential([keras.Input((WIDTH,)), *layers])
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), entropy)
    x = tf.random.normal((BATCH, WIDTH))
    y = tf.random.uniform((BATCH,), maxval=10, dtype=tf.int32)
    ms = milliseconds(lambda: float(model.train_on_batch(x, y)))
    name = tf.config.experimental.get_device_details(devices[0]).get("device_name")
    cudnn = tf.sysconfig.get_build_info().get("cudnn_version")
    version = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    return f"{version}: {name}, built for cuDNN {cudnn}, {ms:.2f} ms"


def main() -> int:
    """Check all of it; stop at the first thing that is missing."""
    try:
        print(driver())
        for check in (pytorch, tensorflow):
            print(f"{check()} for a training step of {BATCH} in float32", flush=True)
    except (RuntimeError, ImportError) as error:
        hint = ": install requirements.txt" * isinstance(error, ImportError)
        print(str(error).strip().splitlines()[0] + hint, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
