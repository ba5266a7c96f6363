"""Over-the-air updates of a model: signed, checked, swapped atomically, rolled back.

    python update.py keys KEYS                        in the cloud, once
    python update.py pack MODEL --version 7 --key KEYS/private.pem PACKAGE
    python update.py install PACKAGE --vehicle DIR    in the vehicle
    python update.py health --vehicle DIR             afterwards, on live pictures
    python update.py boot --vehicle DIR               at each start
    python update.py status --vehicle DIR

A package is one file: a magic number, the length of the manifest, the manifest, its
signature (Ed25519), the model. A vehicle is a folder: `public.pem`, its only key;
`check.npz`, pictures with the right steering and the error allowed; `live.npz`, the
same of what the camera saw and the driver did since; two slots, `a` and `b`, with a
model each; and `state.json`, which says what slot is active. That file is what is
swapped. 10.8 explains all of it.
"""

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

MAGIC = (
    b"PDL-OTA1"  # signed as well: this key's signature on other things is worth nothing
)
SIGNATURE_BYTES = 64
MAX_MANIFEST, MAX_MODEL = 2**16, 2**28  # bytes: nobody fills the memory
MANIFEST = set("architecture created input needs_updater output".split())
MANIFEST |= {"sha256", "size", "version"}
UPDATER = 1  # this program's version; a package may need a newer one
ARCHITECTURE = "PilotNet"
INPUT, OUTPUT = ["batch", 3, 66, 200], ["batch"]
MAX_SECONDS = 0.05  # of a picture, the median: 20 pictures a second at least
MAX_CHECK_SECONDS = 30.0  # of the whole check, which runs in a process of its own


class Refused(Exception):
    """Why a package, or a model, isn't taken, in one line."""


# --- In the cloud --------------------------------------------------------------------


def make_keys(folder: Path) -> None:
    """A new pair of keys; the private one is for the signer's eyes only."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "private.pem").exists():
        raise Refused(f"{folder} holds a private key already, which would be lost")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    descriptor = os.open(folder / "private.pem", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "public.pem").write_bytes(public)


def canonical(manifest: dict) -> bytes:
    """The one way to write a manifest as bytes."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def pack(model: bytes, version: int, private_pem: bytes, **changes: object) -> bytes:
    """A package with a signed manifest; `changes` replace entries of the manifest."""
    manifest = {
        "architecture": ARCHITECTURE,
        "created": int(time.time()),
        "input": INPUT,
        "needs_updater": UPDATER,
        "output": OUTPUT,
        "sha256": hashlib.sha256(model).hexdigest(),
        "size": len(model),
        "version": version,
    }
    content = canonical(manifest | changes)
    header = MAGIC + struct.pack(">I", len(content)) + content
    key = serialization.load_pem_private_key(private_pem, password=None)
    return header + key.sign(header) + model


# --- In the vehicle: is the package what it says? ------------------------------------


def unpack(package: bytes, public_pem: bytes) -> tuple[dict, bytes]:
    """The manifest and the model of a package whose signature, size and hash are right.

    Apart from the manifest's length, which is bounded, nothing is parsed before its
    signature has been verified. Raises Refused.
    """
    start = len(MAGIC) + 4
    if package[: len(MAGIC)] != MAGIC:
        raise Refused("not a package: its first bytes are others")
    if len(package) < start:
        raise Refused("cut short: it ends before the manifest")
    (length,) = struct.unpack(">I", package[len(MAGIC) : start])
    if length > MAX_MANIFEST:
        raise Refused(f"a manifest of {length} bytes, more than {MAX_MANIFEST}")
    body = start + length + SIGNATURE_BYTES
    if len(package) < body:
        raise Refused("cut short: it ends before the model")
    header, signature = package[: start + length], package[start + length : body]
    key = serialization.load_pem_public_key(public_pem)
    if not isinstance(key, Ed25519PublicKey):
        raise Refused("the vehicle's public key is not an Ed25519 key")
    try:
        key.verify(signature, header)
    except InvalidSignature:
        raise Refused("the signature is not the signer's") from None
    manifest, model = json.loads(header[start:]), package[body:]
    if lacking := MANIFEST - set(manifest):
        raise Refused(f"the manifest lacks {', '.join(sorted(lacking))}")
    if len(model) != manifest["size"]:
        raise Refused(f"a model of {len(model)} bytes, not of {manifest['size']}")
    if hashlib.sha256(model).hexdigest() != manifest["sha256"]:
        raise Refused("the model's SHA-256 is not the manifest's")
    return manifest, model


def suits(manifest: dict, highest: int) -> None:
    """Raise Refused unless it is for this vehicle and newer than all before."""
    if manifest["needs_updater"] > UPDATER:
        raise Refused(
            f"it needs updater {manifest['needs_updater']}, this one is {UPDATER}"
        )
    for name, here in (
        ("architecture", ARCHITECTURE),
        ("input", INPUT),
        ("output", OUTPUT),
    ):
        if manifest[name] != here:
            raise Refused(f"{name} {manifest[name]}, the vehicle has {here}")
    if not isinstance(manifest["version"], int):
        raise Refused(f"version {manifest['version']!r} is not a whole number")
    if manifest["version"] <= highest:
        raise Refused(
            f"version {manifest['version']} is not newer than {highest}, seen already"
        )


# --- In the vehicle: does the model steer? -------------------------------------------


def examine(model: Path, pictures: Path) -> dict:
    """Run a model on stored pictures: its error and its seconds. Raises Refused."""
    import onnxruntime  # here, since only the process that checks needs it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is said by the exception
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library has a class of its own for each cause
        raise Refused(f"the runtime can't load it ({type(error).__name__})") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [list(value.shape) for value in (*inputs, *outputs)]
    if shapes != [INPUT, OUTPUT] or inputs[0].type != "tensor(float)":
        raise Refused(f"its shapes are {shapes}, not {[INPUT, OUTPUT]}")
    with np.load(pictures, allow_pickle=False) as data:
        frames, right = data["pictures"].astype(np.float32), data["steering"]
        limit = float(data["max_error"])
    steering, seconds = [], []
    for frame in frames:
        began = time.perf_counter()
        steering.append(session.run(None, {inputs[0].name: frame[None]})[0][0])
        seconds.append(time.perf_counter() - began)
    error = float(np.abs(np.array(steering) - right).mean())
    if not np.isfinite(steering).all():
        raise Refused("its steering is not finite")
    if error > limit:
        raise Refused(f"its error is {error:.2f}, more than {limit:g}")
    median = float(np.median(seconds))
    if median > MAX_SECONDS:
        raise Refused(
            f"{1000 * median:.0f} ms a picture, more than {1000 * MAX_SECONDS:.0f}"
        )
    return {"error": error, "seconds": median}


def examine_apart(
    model: Path, pictures: Path, timeout: float = MAX_CHECK_SECONDS
) -> dict:
    """`examine` in a process of its own: a crash or endless loop there stays there."""
    command = [sys.executable, __file__, "examine", str(model), str(pictures)]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"the check took more than {timeout:g} s") from None
    if result.returncode == 0:
        return json.loads(result.stdout)
    said = result.stderr.strip().splitlines()
    if result.returncode == 3 and said:
        raise Refused(said[-1].removeprefix("refused: "))
    raise Refused(f"the check itself failed (exit status {result.returncode})")


# --- In the vehicle: slots and state -------------------------------------------------


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


def read_state(vehicle: Path) -> dict:
    """active: a slot or None; former: the one to go back to; trial: not yet healthy."""
    try:
        return json.loads((vehicle / "state.json").read_text())
    except FileNotFoundError:
        return {"active": None, "former": None, "trial": False, "highest": 0}
    except ValueError:
        raise Refused(f"{vehicle.name}: state.json is damaged") from None


def write_state(vehicle: Path, state: dict) -> None:
    """The one write that changes what the vehicle drives with."""
    write_atomically(vehicle / "state.json", canonical(state))


def active_model(vehicle: Path) -> Path | None:
    """The model to drive with: whole, signed, as it was when it was installed."""
    slot = read_state(vehicle)["active"]
    return None if slot is None else vehicle / slot / "model.onnx"


def intact(vehicle: Path, slot: str | None) -> bool:
    """Whether a slot's model is the one that its signed package brought."""
    if slot is None or not (vehicle / slot / "package").exists():
        return False
    try:
        package = (vehicle / slot / "package").read_bytes()
        _, model = unpack(package, (vehicle / "public.pem").read_bytes())
        return (vehicle / slot / "model.onnx").read_bytes() == model
    except (Refused, OSError):
        return False


def roll_back(vehicle: Path, why: str) -> None:
    """Back to the former slot. The version stays used: it can't be installed again."""
    state = read_state(vehicle)
    if not intact(vehicle, state["former"]):
        raise Refused(f"{why}; there is no former model to go back to")
    state |= {"active": state["former"], "former": None, "trial": False}
    write_state(vehicle, state)


def install(
    package: bytes,
    vehicle: Path,
    check: Callable[[Path, Path], dict] = examine_apart,
) -> dict:
    """Verify, write into the slot that isn't active, check there, swap: on trial.

    Raises Refused, and OSError if the disk is full; the active model is as before then.
    """
    state = read_state(vehicle)
    if state["trial"]:
        raise Refused("the model before is still on trial: run health first")
    manifest, model = unpack(package, (vehicle / "public.pem").read_bytes())
    suits(manifest, state["highest"])
    slot = "b" if state["active"] == "a" else "a"
    (vehicle / slot).mkdir(exist_ok=True)
    sync_folder(vehicle)
    # What is in that slot is overwritten now: from here on there is no way back to it.
    write_state(vehicle, state | {"former": None})
    write_atomically(vehicle / slot / "package", package)
    write_atomically(vehicle / slot / "model.onnx", model)
    report = check(vehicle / slot / "model.onnx", vehicle / "check.npz")
    write_state(
        vehicle,
        {
            "active": slot,
            "former": state["active"],
            "trial": state["active"] is not None,  # the first has nothing to go back to
            "highest": manifest["version"],
        },
    )
    return manifest | report


def health(
    vehicle: Path,
    live: Path | None = None,
    check: Callable[[Path, Path], dict] = examine_apart,
) -> dict:
    """End the trial: keep the new model, or go back. Raises Refused if it goes back."""
    state = read_state(vehicle)
    live = live or vehicle / "live.npz"
    if not state["trial"]:
        raise Refused("no model is on trial")
    try:
        if not intact(vehicle, state["active"]):
            raise Refused("the slot's model is not the one of its package")
        report = check(vehicle / state["active"] / "model.onnx", live)
    except Refused as refused:
        roll_back(vehicle, str(refused))
        raise Refused(f"rolled back: {refused}") from None
    write_state(vehicle, state | {"trial": False})
    return report


def boot(vehicle: Path) -> str:
    """At each start: a trial that was cut off, or a damaged slot, is rolled back."""
    state = read_state(vehicle)
    if state["active"] is None:
        raise Refused("no model is installed")
    if state["trial"]:
        roll_back(vehicle, "the trial was cut off")
        return "the trial was cut off: rolled back"
    if not intact(vehicle, state["active"]):
        roll_back(vehicle, "the active slot is damaged")
        return "the active slot is damaged: rolled back"
    return "ready"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: exit status 0, or 3 with one line on why not."""
    parser = argparse.ArgumentParser(
        prog="update.py", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("keys", help="make a pair of keys")
    command.add_argument("folder", type=Path)
    command = commands.add_parser("pack", help="make a package of a model")
    command.add_argument("model", type=Path)
    command.add_argument("package", type=Path)
    command.add_argument("--version", type=int, required=True)
    command.add_argument("--key", type=Path, required=True)
    command = commands.add_parser("install", help="install a package in a vehicle")
    command.add_argument("package", type=Path)
    command.add_argument("--vehicle", type=Path, required=True)
    for name, text in (
        ("health", "end a trial, on live pictures"),
        ("boot", "at each start"),
        ("status", "what is installed"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--vehicle", type=Path, required=True)
    command = commands.add_parser("examine", help="run a model on stored pictures")
    command.add_argument("model", type=Path)
    command.add_argument("pictures", type=Path)
    options = parser.parse_args(argv)
    try:
        if options.command == "keys":
            make_keys(options.folder)
            print(f"keys in {options.folder}: guard private.pem")
        elif options.command == "pack":
            model, key = options.model.read_bytes(), options.key.read_bytes()
            package = pack(model, options.version, key)
            write_atomically(options.package, package)
            print(f"{options.package.name}: {len(package):,} bytes")
        elif options.command == "examine":
            print(json.dumps(examine(options.model, options.pictures)))
        elif options.command == "install":
            if (size := options.package.stat().st_size) > MAX_MODEL:
                raise Refused(f"a package of {size} bytes, more than {MAX_MODEL}")
            done = install(options.package.read_bytes(), options.vehicle)
            print(f"version {done['version']} installed, error {done['error']:.3f}")
        elif options.command == "health":
            print(f"healthy, error {health(options.vehicle)['error']:.3f}")
        elif options.command == "boot":
            print(boot(options.vehicle))
        else:
            print(json.dumps(read_state(options.vehicle)))
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 3
    except OSError as error:
        name = Path(error.filename).name if error.filename else "the disk"
        print(f"refused: {name}: {error.strerror}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
