"""Train PilotNet on drawn road pictures, with any number of processes.

    python train.py --folder run                              one process
    torchrun --standalone --nproc-per-node=2 train.py ...     two on this machine
    torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d \
        --rdzv-endpoint=HOST:29500 --max-restarts=3 train.py ...     32 on four machines

The global batch is what counts: its pictures are shared out among the processes, and
the loss curve is the same for any number of them, up to rounding. `--folder` holds the
log, the checkpoints and the trained model; with several machines it must lie on a disk
that all of them share. A run that was killed goes on from its newest checkpoint when it
is started again, by a person, by a scheduler or by torchrun. 10.8 explains all of it.
"""

import argparse
import hashlib
import io
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# --- Data: the picture with the number i is the same wherever it is drawn ------------

HEIGHT, WIDTH = 66, 200  # pixels, as in Bojarski et al. (2016)
CAMERA_HEIGHT, FOCAL, HORIZON = 1.4, 146.0, 12.0  # m, pixels, row
LOOK_AHEAD, RADIUS_UNIT = 10.0, 50.0  # m; steering 1 is a left turn of 50 m radius
VALIDATION, TEST = 10**9, 2 * 10**9  # indices from here on are never trained on


def draw(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RGB pictures (n, 3, 66, 200), bytes, and the right steering (n,) of indices (n,).

    The vehicle drives in the right lane of a road with two. Ahead, the lane's center is
    at y(X) = cX²/2 + c'X³/6 - ψX - e to the left; the steering is the arc that leads
    there: 50 m · 2y(L)/L², positive to the left.
    """
    indices = np.asarray(indices, np.int64)
    rngs = [np.random.default_rng([108, index]) for index in indices]
    normal = np.array([rng.standard_normal(4) for rng in rngs]).reshape(-1, 4)
    uniform = np.array([rng.random(10) for rng in rngs]).reshape(-1, 10)
    c, slope, psi, e = (normal * [0.008, 0.0001, 0.03, 0.35]).T[..., None, None]
    light, grass, gray, sky, where, lean, width, depth, start, has_shadow = (
        uniform.astype(np.float32).T[..., None, None]
    )

    def center(X: np.ndarray) -> np.ndarray:
        """How far to the left the lane's center is, X m ahead."""
        return c * X**2 / 2 + slope * X**3 / 6 - psi * X - e

    steering = RADIUS_UNIT * 2 * center(np.float64(LOOK_AHEAD)) / LOOK_AHEAD**2

    rows = np.arange(math.ceil(HORIZON) + 1, HEIGHT)[:, None]
    X = CAMERA_HEIGHT * FOCAL / (rows - HORIZON)  # (rows, 1), m ahead
    Y = ((WIDTH - 1) / 2 - np.arange(WIDTH)) * X / FOCAL  # (rows, 200), m to the left
    left = (Y - center(X)).astype(np.float32)  # (n, rows, 200), of the lane's center
    X, Y = X.astype(np.float32), Y.astype(np.float32)
    pixel = X / np.float32(FOCAL)  # a pixel's width on the ground, m

    def band(low: float, high: float) -> np.ndarray:
        """Which part of each pixel lies between two distances from the center."""
        return np.clip((left - low) / pixel + 0.5, 0, 1) * np.clip(
            (high - left) / pixel + 0.5, 0, 1
        )

    road, dashes = band(-2.2, 5.7), (X + 12 * start) % 12 < 6
    lines = band(-1.83, -1.67) + band(5.17, 5.33) + band(1.67, 1.83) * dashes
    shadow = np.abs(X - 5 - 25 * where - (2 * lean - 1) * Y) < 0.5 + 2 * width
    shade = np.where(shadow & (has_shadow < 0.5), 0.4 + 0.3 * depth, np.float32(1))
    brightness = (0.35 + 0.65 * light) * shade

    pictures = np.empty((len(indices), 3, HEIGHT, WIDTH), np.float32)
    above = len(range(HEIGHT)) - len(rows)
    for channel, (blue, green) in enumerate([(0.55, 0.25), (0.7, 0.45), (0.95, 0.15)]):
        ground = 255 * (green + 0.2 * (grass - 0.5))
        ground = ground + road * (255 * (0.3 + 0.25 * gray) - ground)
        ground = ground + lines * (235 - ground)
        pictures[:, channel, above:] = ground * brightness
        pictures[:, channel, :above] = 255 * (blue - 0.3 * sky) * (0.35 + 0.65 * light)
    for picture, rng in zip(pictures, rngs):
        picture += 5 * rng.standard_normal((HEIGHT, WIDTH), np.float32)
    pictures = np.clip(pictures, 0, 255).astype(np.uint8)
    return pictures, steering[:, 0, 0].astype(np.float32)


def global_batch(
    step: int, num_pictures: int, batch_size: int, seed: int
) -> np.ndarray:
    """Indices of the global batch of a step: each epoch in an order of its own.

    The last batch of an epoch holds what is left, be it few.
    """
    steps_per_epoch = math.ceil(num_pictures / batch_size)
    epoch, batch = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(num_pictures)
    return order[batch * batch_size : (batch + 1) * batch_size]


def share(indices: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The part of a process: nothing twice, nothing left out, one more or less."""
    return indices[rank::world_size]


# --- Model and loss ------------------------------------------------------------------


class PilotNet(nn.Module):
    """Bojarski et al. (2016): pictures (n, 3, 66, 200) from 0 to 255 to steering (n,).

    252,219 parameters. Its first layer is the normalization to -1 to 1, so that nobody
    who runs the network can forget it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(3, 24, 5, stride=2), nn.ReLU()),
            *(nn.Conv2d(24, 36, 5, stride=2), nn.ReLU()),
            *(nn.Conv2d(36, 48, 5, stride=2), nn.ReLU()),
            *(nn.Conv2d(48, 64, 3), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU()),
        )
        self.head = nn.Sequential(
            *(nn.Flatten(), nn.Linear(64 * 1 * 18, 100), nn.ReLU()),
            *(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10), nn.ReLU()),
            nn.Linear(10, 1),
        )
        for layer in self.modules():  # He et al. (2015): nothing vanishes at the start
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolutions(pictures / 127.5 - 1)).squeeze(1)


def loss_for_ddp(
    predictions: torch.Tensor,
    steering: torch.Tensor,
    global_count: int,
    world_size: int,
) -> torch.Tensor:
    """The squared errors of a share, weighted for DistributedDataParallel.

    DDP takes the mean of the processes' gradients. Summed errors times the number of
    processes, divided by the number of pictures in the global batch, make that mean the
    gradient of the global batch's mean squared error, however uneven the shares.
    """
    return ((predictions.float() - steering) ** 2).sum() * world_size / global_count


def learning_rate_factor(step: int, warmup_steps: int, num_steps: int) -> float:
    """Of the learning rate: a linear warm-up, then half a cosine down to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


# --- Files: whole or not at all ------------------------------------------------------


def sync_folder(folder: Path) -> None:
    """Have the disk know the folder's names, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush to the disk, rename: a crash leaves the old or the new."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_folder(path.parent)


def save_checkpoint(folder: Path, step: int, state: dict, keep: int = 2) -> Path:
    """Write `state` after `step` steps; its name holds its SHA-256. Keep the newest."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
    path = folder / f"checkpoint_{step:08d}_{digest}.pt"
    write_atomically(path, buffer.getvalue())
    for old in sorted(folder.glob("checkpoint_*.pt"))[:-keep]:
        old.unlink()
    return path


def newest_checkpoint(folder: Path, say: Callable[[str], None] = print) -> dict | None:
    """The newest checkpoint that is whole, or None; a damaged one is named, skipped."""
    for path in sorted(folder.glob("checkpoint_*.pt"), reverse=True):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == path.stem.split("_")[-1]:
            return torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
        say(f"{path.name} is damaged or cut short: taking the one before it")
    return None


def read_log(folder: Path) -> list[dict]:
    """The log's lines; the last one may have been cut off by a crash."""
    lines = []
    for line in (folder / "log.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


# --- Processes -----------------------------------------------------------------------


class Processes:
    """Who this process is among how many, on what device; entered to join them."""

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        enough = torch.cuda.is_available() and torch.cuda.device_count() >= here
        if device == "cuda" and not enough:
            raise SystemExit(
                f"train.py: --device cuda: {here} processes need {here} GPUs; here "
                f"are {torch.cuda.device_count()}: use --device cpu or fewer processes"
            )
        self.device = torch.device("cpu")
        if device != "cpu" and enough:
            self.device = torch.device("cuda", self.local_rank)

    def __enter__(self) -> "Processes":
        if self.world_size > 1:
            on_gpu = self.device.type == "cuda"
            if on_gpu:
                torch.cuda.set_device(self.device)
            patience = timedelta(minutes=5)
            store, rank, world_size = next(dist.rendezvous("env://", timeout=patience))
            if os.environ.get("GROUP_WORLD_SIZE") == "1":
                # torchrun keeps its store through a restart, and with it the addresses
                # of the dead. With several machines, where the counts may differ:
                # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun ...
                store = dist.PrefixStore(f"attempt {self.restarts}", store)
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=world_size,
                timeout=patience,
            )
        return self

    def __exit__(self, *error: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def sum(self, *numbers: float) -> list[float]:
        """The sums of numbers over all processes."""
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over the processes."""
        if self.world_size == 1:
            return model
        on_gpu = self.device.type == "cuda"
        return DistributedDataParallel(
            model, device_ids=[self.local_rank] if on_gpu else None
        )

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures, as floats from 0 to 255, and steering, on this process' device."""
        pictures, steering = draw(indices)
        pictures = torch.from_numpy(pictures).to(self.device).float()
        return pictures, torch.from_numpy(steering).to(self.device)


@torch.inference_mode()
def mean_error(
    model: nn.Module, first: int, count: int, processes: Processes, size: int = 64
) -> float:
    """Mean absolute error on pictures first … first + count - 1, each counted once."""
    mine = share(np.arange(first, first + count), processes.rank, processes.world_size)
    model.eval()
    total = 0.0
    for start in range(0, len(mine), size):
        pictures, steering = processes.batch(mine[start : start + size])
        total += (model(pictures) - steering).abs().double().sum().item()
    model.train()
    return processes.sum(total)[0] / count


# --- Training ------------------------------------------------------------------------

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(options: argparse.Namespace, processes: Processes) -> dict:
    """Train, from the newest checkpoint if there is one; returns the summary."""
    world_size, device = processes.world_size, processes.device
    chief = processes.rank == 0
    torch.manual_seed(options.seed)
    model = PilotNet().to(device)
    ddp = processes.wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    num_steps = options.epochs * math.ceil(options.pictures / options.global_batch)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step, options.warmup_steps, num_steps),
    )
    dtype = PRECISIONS[options.precision]
    # Gradients below 6e-8 are zero in float16, so the loss is scaled up before and they
    # are scaled down after. bfloat16 has float32's exponents and needs no scaling.
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
    parts = dict(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)

    # What the curve depends on. The number of processes is not among it.
    names = "pictures epochs global_batch learning_rate warmup_steps precision seed"
    config = {name: getattr(options, name) for name in names.split()}
    say = print if chief else lambda line: None
    checkpoint = newest_checkpoint(options.folder, say)
    step = 0
    if checkpoint is not None:
        for name, value in config.items():
            if checkpoint["config"][name] != value:
                raise SystemExit(
                    f"train.py: {options.folder} holds a run with {name} "
                    f"{checkpoint['config'][name]}, not {value}: name another --folder"
                )
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        step = checkpoint["step"]
        say(f"resumed after step {step}")
    if processes.sum(step)[0] != step * world_size:
        raise SystemExit(
            "train.py: the processes found different checkpoints: put --folder on a "
            "disk that all machines share"
        )

    seen, began = 0, time.perf_counter()
    while step < num_steps:
        indices = global_batch(
            step, options.pictures, options.global_batch, options.seed
        )
        optimizer.zero_grad()
        losses = []
        for part in range(options.shares):  # more than one: gradients are accumulated
            mine = share(
                indices,
                processes.rank * options.shares + part,
                world_size * options.shares,
            )
            pictures, steering = processes.batch(mine)
            last = part == options.shares - 1
            with nullcontext() if last or world_size == 1 else ddp.no_sync():
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    predictions = ddp(pictures)
                loss = loss_for_ddp(predictions, steering, len(indices), world_size)
                scaler.scale(loss).backward()  # DDP averages meanwhile, the last time
            losses.append(loss.item() / world_size)
        scaler.step(optimizer)
        scaler.update()
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        step += 1
        seen += len(indices)
        global_loss = processes.sum(sum(losses))[0]
        if chief:
            entry = dict(step=step, loss=global_loss, rate=rate)
            entry |= dict(restarts=processes.restarts, world_size=world_size)
            with open(options.folder / "log.jsonl", "a") as log:
                log.write("\n" + json.dumps(entry))  # a line that was cut off ends
        if chief and (step % options.save_every == 0 or step == num_steps):
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(
                options.folder, step, state | dict(step=step, config=config)
            )
        if step == options.crash_at_step and processes.restarts == 0:
            if processes.rank == world_size - 1:
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel out of memory does
    seconds = time.perf_counter() - began

    summary = dict(steps=step, world_size=world_size, restarts=processes.restarts)
    summary["pictures_per_second"] = seen / seconds if seen else None
    summary["validation_error"] = mean_error(
        model, VALIDATION, options.validation_pictures, processes
    )
    if chief:
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        write_atomically(options.folder / "model.pt", buffer.getvalue())
        text = json.dumps(summary, indent=2)
        write_atomically(options.folder / "summary.json", text.encode())
    return summary


# --- What the processes do together, compared and measured ---------------------------


def gradient(
    model: nn.Module,
    pictures: torch.Tensor,
    steering: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The gradient of loss(predictions, steering), as one vector."""
    model.zero_grad()
    loss(model(pictures), steering).backward()
    return torch.cat([weights.grad.flatten() for weights in model.parameters()])


def compare_gradients(processes: Processes, count: int, dtype: torch.dtype) -> dict:
    """How far DDP's gradient of a global batch is from the one of a single process.

    Relative to its norm, with the weighted loss and with each share's plain mean.
    """
    rank, world_size = processes.rank, processes.world_size
    torch.manual_seed(0)
    model = PilotNet().to(processes.device, dtype)
    ddp = processes.wrap(model)
    pictures, steering = (part.to(dtype) for part in processes.batch(np.arange(count)))
    alone = gradient(model, pictures, steering, lambda p, t: ((p - t) ** 2).mean())
    mine = share(np.arange(count), rank, world_size)

    def weighted(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ((p - t) ** 2).sum() * world_size / count

    def naive(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ((p - t) ** 2).mean() if len(p) else p.sum()

    errors = {}
    for name, loss in (("weighted", weighted), ("naive", naive)):
        together = gradient(ddp, pictures[mine], steering[mine], loss)
        errors[name] = ((together - alone).norm() / alone.norm()).item()
    if dtype == torch.float32:  # the loss of the training itself
        together = gradient(
            ddp,
            pictures[mine],
            steering[mine],
            lambda p, t: loss_for_ddp(p, t, count, world_size),
        )
        errors["training"] = ((together - alone).norm() / alone.norm()).item()
    return dict(count=count, dtype=str(dtype), shares=world_size) | errors


def seconds_a_step(
    step: Callable[[], object], processes: Processes, rounds: int
) -> list:
    """The seconds that each of some rounds takes; all processes begin together."""
    step()  # the first one allocates
    times = []
    for _ in range(rounds):
        processes.sum(0)
        began = time.perf_counter()
        step()
        if processes.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times


def measure(options: argparse.Namespace, processes: Processes) -> dict:
    """Gradients compared, an all-reduce checked, a step timed; rank 0 saves it."""
    rank, world_size = processes.rank, processes.world_size
    result: dict = {"world_size": world_size, "gradients": []}
    for count in (2 * world_size, 2 * world_size + 1, world_size - 1):
        for dtype in (torch.float32, torch.float64):
            result["gradients"].append(compare_gradients(processes, count, dtype))

    vectors = [
        np.random.default_rng(r).standard_normal(10_007).astype(np.float32)
        for r in range(world_size)
    ]
    vector = torch.tensor(vectors[rank], device=processes.device)
    dist.all_reduce(vector)
    difference = vector.cpu().numpy() - np.sum(vectors, axis=0, dtype=np.float64)
    result["all_reduce_error"] = float(np.abs(difference).max())

    model = PilotNet().to(processes.device)
    ddp = processes.wrap(model)
    size, rounds = options.global_batch, options.rounds
    pictures, steering = processes.batch(np.arange(size))
    part = slice(0, len(share(np.arange(size), rank, world_size)))

    def step(model: nn.Module, part: slice, alone: bool = False) -> None:
        with ddp.no_sync() if alone else nullcontext():
            gradient(
                model, pictures[part], steering[part], lambda p, t: ((p - t) ** 2).sum()
            )

    everything, grads = slice(0, size), torch.zeros(252_219, device=processes.device)
    times = {}
    # One process with the whole batch, while the others sleep in the next sum.
    if rank == 0:
        alone = Processes.__new__(Processes)
        alone.__dict__ = processes.__dict__ | dict(world_size=1)
        times["one, batch"] = seconds_a_step(
            lambda: step(model, everything), alone, rounds
        )
    processes.sum(0)
    timed = {
        "all, batch shared": lambda: step(ddp, part),
        "all, batch each": lambda: step(ddp, everything),
        "all, batch shared, no exchange": lambda: step(ddp, part, alone=True),
        "all-reduce": lambda: dist.all_reduce(grads),
    }
    for name, function in timed.items():
        times[name] = seconds_a_step(function, processes, rounds)
    result["medians"] = {name: statistics.median(t) for name, t in times.items()}
    result["times"] = times
    result["batch"] = size
    if rank == 0:
        text = json.dumps(result, indent=2)
        write_atomically(options.folder / "measured.json", text.encode())
    return result


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="log, checkpoints and model")
    add("--pictures", type=int, default=8000, help="in the training set")
    add("--validation-pictures", type=int, default=1000)
    add("--epochs", type=int, default=4)
    add(
        "--global-batch", type=int, default=64, help="pictures a step, of all processes"
    )
    add("--shares", type=int, default=1, help="of a process' batch, one at a time")
    add("--learning-rate", type=float, default=1e-3)
    add("--warmup-steps", type=int, default=20)
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--save-every", type=int, default=50, help="steps between checkpoints")
    add("--seed", type=int, default=1234)
    add("--crash-at-step", type=int, default=0, help="the last process dies, once")
    add("--measure", action="store_true", help="compare and time, then train")
    add("--rounds", type=int, default=20, help="of each measurement")
    options = parser.parse_args(argv)
    for name in (
        "pictures",
        "validation_pictures",
        "global_batch",
        "save_every",
        "shares",
    ):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    if not options.learning_rate > 0:
        parser.error("--learning-rate must be positive")
    return options


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line; returns the summary."""
    options = parse(argv)
    with Processes(options.device) as processes:
        if options.measure and processes.world_size == 1:
            raise SystemExit("train.py: --measure needs two processes: use torchrun")
        options.folder.mkdir(parents=True, exist_ok=True)
        if options.measure and processes.restarts == 0:
            measure(options, processes)
        summary = train(options, processes)
    if processes.rank == 0:
        print(json.dumps(summary))
    return summary


if __name__ == "__main__":
    main(sys.argv[1:])
