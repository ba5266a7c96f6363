"""ch10_autonomous/train.py and update.py, which the notebook 10.8 runs."""

import contextlib
import json
import math
import os
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "ch10_autonomous"
SMALL = "--pictures 13 --validation-pictures 5 --epochs 2 --global-batch 4"
SMALL += " --warmup-steps 2 --save-every 3 --device cpu"


@pytest.fixture(scope="module")
def train() -> SimpleNamespace:
    torch.set_num_threads(1)  # as each worker: sums in the same order
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "train.py")))


@pytest.fixture(scope="module")
def update() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "update.py")))


def losses(train: SimpleNamespace, folder: Path) -> dict[int, float]:
    """The loss of each step; of one that ran twice, the second."""
    return {entry["step"]: entry["loss"] for entry in train.read_log(folder)}


# --- train.py ------------------------------------------------------------------------


def test_a_picture_belongs_to_its_number(train: SimpleNamespace) -> None:
    many, steering = train.draw(np.arange(12))
    few, some = train.draw(np.array([7, 3]))
    assert (few == many[[7, 3]]).all() and (some == steering[[7, 3]]).all()
    assert len({picture.tobytes() for picture in many}) == 12
    assert train.draw(np.array([], int))[0].shape == (0, 3, 66, 200)
    assert min(train.VALIDATION, train.TEST - train.VALIDATION) >= 10**9


def test_every_picture_once_an_epoch(train: SimpleNamespace) -> None:
    orders = []
    for epoch in range(2):
        batches = [train.global_batch(4 * epoch + b, 13, 4, 5) for b in range(4)]
        assert [len(batch) for batch in batches] == [4, 4, 4, 1]
        for world_size in (1, 2, 3, 5):
            shares = [
                train.share(batch, rank, world_size)
                for batch in batches
                for rank in range(world_size)
            ]
            assert sorted(np.concatenate(shares)) == list(range(13))
        orders.append(np.concatenate(batches).tolist())
    assert orders[0] != orders[1] and orders[0] != list(range(13))
    assert (train.global_batch(0, 13, 4, 6) != train.global_batch(0, 13, 4, 5)).any()


def test_the_learning_rate(train: SimpleNamespace) -> None:
    factors = [train.learning_rate_factor(step, 4, 14) for step in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.5) and factors[14] == pytest.approx(0)
    assert (np.diff(factors[4:]) < 0).all()
    assert train.learning_rate_factor(0, 0, 0) == 1


def by_hand(train: SimpleNamespace, num_steps: int) -> list[float]:
    """The losses of a plain loop with the options SMALL."""
    torch.manual_seed(1234)
    model = train.PilotNet()
    optimizer = torch.optim.Adam(model.parameters())
    values = []
    for step in range(num_steps):
        indices = np.random.default_rng([1234, step // 4]).permutation(13)
        indices = indices[step % 4 * 4 :][:4]
        pictures, steering = map(torch.from_numpy, train.draw(indices))
        loss = ((model(pictures.float()) - steering) ** 2).mean()
        rate = min((step + 1) / 2, (1 + math.cos(math.pi * (step - 2) / 6)) / 2)
        rate = (step + 1) / 2 if step < 2 else rate
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_two_workers_one_killed(train: SimpleNamespace, tmp_path: Path) -> None:
    """Killed and restarted, they give the losses of a plain loop in one process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--max-restarts=1", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "train.py", "--folder", str(tmp_path)]
    command += [*SMALL.split(), "--crash-at-step", "5", "--measure", "--rounds", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with subprocess.Popen(
        command,
        cwd=FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    assert process.returncode == 0, output[-2000:]
    log = train.read_log(tmp_path)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
    assert [entry["restarts"] for entry in log] == 5 * [0] + 5 * [1]
    assert {entry["world_size"] for entry in log} == {2}
    first = {entry["step"]: entry["loss"] for entry in log[:5]}
    together = losses(train, tmp_path)
    assert first[4] == together[4] and first[5] == together[5]
    assert np.allclose([together[s] for s in range(1, 9)], by_hand(train, 8), atol=1e-4)
    train.main(["--folder", str(tmp_path / "one"), *SMALL.split(), "--shares", "2"])
    assert losses(train, tmp_path / "one") == pytest.approx(together, abs=1e-9)
    measured = json.loads((tmp_path / "measured.json").read_text())
    for case in measured["gradients"]:
        limit = 1e-5 if "32" in case["dtype"] else 1e-12
        assert case["weighted"] < limit and case.get("training", 0) < 1e-5
        assert (case["naive"] > 0.01) == (case["count"] % 2 == 1)
    assert measured["all_reduce_error"] < 1e-6

    # The error after training is that of the saved model on pictures never trained on.
    model = train.PilotNet()
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    pictures, steering = train.draw(train.VALIDATION + np.arange(5))
    with torch.inference_mode():
        error = np.abs(model(torch.from_numpy(pictures).float()).numpy() - steering)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["validation_error"] == pytest.approx(error.mean(), abs=1e-5)
    assert summary["restarts"] == 1 and summary["steps"] == 8
    state = train.newest_checkpoint(tmp_path)
    assert state["step"] == 8 and state["optimizer"]["state"][0]["step"] == 8

    # Damaged checkpoints are passed over; other settings are not gone on with.
    newest = max(tmp_path.glob("checkpoint_*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    said: list[str] = []
    assert train.newest_checkpoint(tmp_path, said.append)["step"] == 6
    assert len(said) == 1 and newest.name in said[0]
    with pytest.raises(SystemExit, match="global_batch 4, not 5"):
        train.main(["--folder", str(tmp_path), *SMALL.split(), "--global-batch", "5"])


def test_only_the_newest_checkpoints_are_kept(
    train: SimpleNamespace, tmp_path: Path
) -> None:
    for step in (3, 100, 20):
        train.save_checkpoint(tmp_path, step, {"step": step})
    names = sorted(path.name[:19] for path in tmp_path.iterdir())
    assert names == ["checkpoint_00000020", "checkpoint_00000100"]
    assert train.newest_checkpoint(tmp_path)["step"] == 100
    assert train.newest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--global-batch 0", "--global-batch must be 1 or more"),
        ("--learning-rate 0", "--learning-rate must be positive"),
        ("--precision fp8", "invalid choice"),
    ],
)
def test_bad_options(
    train: SimpleNamespace, capsys: pytest.CaptureFixture, words: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        train.parse(["--folder", "x", *words.split()])
    assert message in capsys.readouterr().err


def test_measuring_needs_company(train: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="use torchrun"):
        train.main(["--folder", str(tmp_path), "--measure"])


# --- update.py -----------------------------------------------------------------------


def network(answer: float = 0.0, height: int = 66) -> bytes:
    """An ONNX file that answers 0 · mean + answer."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("ReduceMean", ["pictures", "axes"], ["mean"], keepdims=0),
        make.make_node("Mul", ["mean", "zero"], ["nothing"]),
        make.make_node("Add", ["nothing", "answer"], ["steering"]),
    ]
    graph = make.make_graph(
        nodes,
        "constant",
        [make.make_tensor_value_info("pictures", kind, ["batch", 3, height, 200])],
        [make.make_tensor_value_info("steering", kind, ["batch"])],
        [
            onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            onnx.numpy_helper.from_array(np.array([0], np.float32), "zero"),
            onnx.numpy_helper.from_array(np.array([answer], np.float32), "answer"),
        ],
    )
    opset = [make.make_opsetid("", 20)]
    return make.make_model(
        graph, opset_imports=opset, ir_version=10
    ).SerializeToString()


def fine(model: Path, pictures: Path) -> dict:
    """A check that all pass."""
    return {"error": 0.0, "seconds": 0.0}


@pytest.fixture
def garage(update: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """Keys, a vehicle without a model, and how to make a package."""
    update.make_keys(tmp_path / "keys")
    vehicle = tmp_path / "vehicle"
    vehicle.mkdir()
    private = (tmp_path / "keys" / "private.pem").read_bytes()
    public = (tmp_path / "keys" / "public.pem").read_bytes()
    (vehicle / "public.pem").write_bytes(public)
    for name, right in (("check", 0.0), ("live", 0.2)):
        np.savez(
            vehicle / f"{name}.npz",
            pictures=np.zeros((2, 3, 66, 200), np.uint8),
            steering=np.full(2, right, np.float32),
            max_error=0.3,
        )

    def pack(version: int, answer: float = 0.0, **changes: object) -> bytes:
        return update.pack(network(answer), version, private, **changes)

    return SimpleNamespace(
        keys=tmp_path / "keys",
        vehicle=vehicle,
        private=private,
        public=public,
        pack=pack,
    )


def files(vehicle: Path) -> dict[str, bytes]:
    """Everything in a vehicle that matters for driving."""
    state = json.loads((vehicle / "state.json").read_text())
    active = vehicle / state["active"]
    kept = {path.name: path.read_bytes() for path in active.iterdir()}
    return kept | {"state": json.dumps(state | {"former": None}).encode()}


def test_the_private_key_is_private(
    update: SimpleNamespace, garage: SimpleNamespace
) -> None:
    assert (garage.keys / "private.pem").stat().st_mode & 0o077 == 0
    assert b"PRIVATE" not in garage.public
    with pytest.raises(update.Refused, match="already"):
        update.make_keys(garage.keys)


def test_every_bit_of_the_header_is_signed(
    update: SimpleNamespace, garage: SimpleNamespace
) -> None:
    package = garage.pack(1)
    manifest, model = update.unpack(package, garage.public)
    assert model == network() and manifest["version"] == 1
    header = len(package) - len(model)
    for bit in [*range(0, 8 * header, 3), *range(8 * header, 8 * len(package), 97)]:
        damaged = bytearray(package)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(update.Refused):
            update.unpack(bytes(damaged), garage.public)
    for length in range(len(package)):
        with pytest.raises(update.Refused):
            update.unpack(package[:length], garage.public)
    with pytest.raises(update.Refused, match="bytes"):
        update.unpack(package + b"x", garage.public)
    huge = update.MAGIC + struct.pack(">I", 2**31) + package
    with pytest.raises(update.Refused, match="manifest of"):
        update.unpack(huge, garage.public)


@pytest.mark.parametrize("part", ["sha256", "size"])
def test_the_manifest_binds_the_model(
    update: SimpleNamespace, garage: SimpleNamespace, part: str
) -> None:
    wrong = {"sha256": "0" * 64, "size": 3}[part]
    with pytest.raises(update.Refused):
        update.unpack(garage.pack(1, **{part: wrong}), garage.public)


def test_versions_only_rise(update: SimpleNamespace, garage: SimpleNamespace) -> None:
    vehicle, two = garage.vehicle, garage.pack(2)
    update.install(two, vehicle, fine)
    before = files(vehicle)
    for package in (two, garage.pack(1), garage.pack("3"), garage.pack(True)):
        with pytest.raises(update.Refused, match="version"):
            update.install(package, vehicle, fine)
    assert files(vehicle) == before
    update.install(garage.pack(3, 0.1), vehicle, fine)
    update.roll_back(vehicle, "a test")
    with pytest.raises(update.Refused, match="not newer than 3"):
        update.install(garage.pack(3, 0.1), vehicle, fine)
    assert update.active_model(vehicle).read_bytes() == network()


def test_a_trial(update: SimpleNamespace, garage: SimpleNamespace) -> None:
    vehicle = garage.vehicle
    update.install(garage.pack(1), vehicle, update.examine)
    assert not update.read_state(vehicle)["trial"]
    with pytest.raises(update.Refused, match="no model is on trial"):
        update.health(vehicle, check=update.examine)
    # 0.2 off on the stored pictures, right on the live ones: healthy.
    update.install(garage.pack(2, 0.2), vehicle, update.examine)
    assert update.read_state(vehicle)["trial"]
    with pytest.raises(update.Refused, match="on trial"):
        update.install(garage.pack(3), vehicle, update.examine)
    assert update.health(vehicle, check=update.examine)["error"] < 1e-6
    # Good on the stored ones, 0.45 off on the live ones: rolled back.
    update.install(garage.pack(3, -0.25), vehicle, update.examine)
    with pytest.raises(update.Refused, match="rolled back: its error is 0.45"):
        update.health(vehicle, check=update.examine)
    assert update.active_model(vehicle).read_bytes() == network(0.2)
    assert update.boot(vehicle) == "ready"
    # An interrupted trial, and a damaged slot.
    update.install(garage.pack(4, 0.1), vehicle, update.examine)
    assert "cut off" in update.boot(vehicle)
    assert update.active_model(vehicle).read_bytes() == network(0.2)
    update.install(garage.pack(5, 0.1), vehicle, update.examine)
    update.health(vehicle, check=update.examine)
    update.active_model(vehicle).write_bytes(network(9.0))
    assert "damaged" in update.boot(vehicle)
    assert update.active_model(vehicle).read_bytes() == network(0.2)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (network(np.nan), "not finite"),
        (network(0.5), "error is 0.50, more than 0.3"),
        (network(height=30), "shapes"),
        (b"hello", "can't load"),
    ],
)
def test_bad_models_with_a_good_signature(
    update: SimpleNamespace, garage: SimpleNamespace, model: bytes, reason: str
) -> None:
    update.install(garage.pack(1), garage.vehicle, fine)
    before = files(garage.vehicle)
    package = update.pack(model, 2, garage.private)
    with pytest.raises(update.Refused, match=reason):
        update.install(package, garage.vehicle, update.examine)
    assert files(garage.vehicle) == before


def test_a_half_overwritten_slot_is_no_way_back(
    update: SimpleNamespace, garage: SimpleNamespace
) -> None:
    """A package that failed its check must not be rolled back to later."""
    vehicle = garage.vehicle
    update.install(garage.pack(1), vehicle, fine)
    update.install(garage.pack(2), vehicle, fine)
    update.health(vehicle, check=fine)
    with pytest.raises(update.Refused, match="not finite"):
        update.install(garage.pack(3, np.nan), vehicle, update.examine)
    update.active_model(vehicle).write_bytes(b"damaged")
    with pytest.raises(update.Refused, match="no former model"):
        update.boot(vehicle)


def test_the_order_on_the_disk(
    train: SimpleNamespace,
    update: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Content, flush, rename, flush of the folder: in both programs."""
    real, calls = {name: getattr(os, name) for name in ("fsync", "replace")}, []
    for name in real:
        monkeypatch.setattr(
            os, name, lambda *a, name=name: calls.append(name) or real[name](*a)
        )
    for program in (train, update):
        program.write_atomically(tmp_path / "file", b"content")
    assert calls == 2 * ["fsync", "replace", "fsync"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_line(
    update: SimpleNamespace, garage: SimpleNamespace, capfd: pytest.CaptureFixture
) -> None:
    model, package = garage.keys / "model.onnx", garage.keys / "package"
    model.write_bytes(network(0.1))
    key = garage.keys / "private.pem"
    words = ["pack", str(model), str(package), "--version", "1", "--key", str(key)]
    assert update.main(words) == 0
    vehicle = ["--vehicle", str(garage.vehicle)]
    assert update.main(["install", str(package), *vehicle]) == 0  # in its own process
    assert "version 1 installed, error 0.100" in capfd.readouterr().out
    assert update.main(["install", str(package), *vehicle]) == 3
    assert (
        capfd.readouterr().err
        == "refused: version 1 is not newer than 1, seen already\n"
    )
    assert update.main(["install", "nowhere", *vehicle]) == 3
    assert "refused: nowhere: No such file" in capfd.readouterr().err
    assert update.main(["boot", *vehicle]) == 0
    with contextlib.suppress(update.Refused):
        update.examine_apart(model, garage.vehicle / "check.npz", timeout=0.001)
        raise AssertionError("the time limit isn't kept")
