"""Write spoken_digits_small/: digits spoken by the synthesizer espeak-ng.

Named as in the Free Spoken Digit Dataset, {digit}_{speaker}_{index}.wav, and like there
indices 0 to 4 are the test split. WAV, 8 kHz, mono, 16 bits.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from common import fail, output_path, replacing
from scipy.io import wavfile
from scipy.signal import resample_poly

SAMPLE_RATE = 8000
WORDS = "zero one two three four five six seven eight nine".split()
VOICES = {"american": "en-us", "british": "en-gb+f2", "scottish": "en-gb-scotland+m3"}
NUM_TAKES = 10
QUIET = 0.004  # of the peak: what is below it at either end is cut off
NOISE = 0.003  # of the peak, its standard deviation: no recording is free of it
PEAK = 0.9


def speak(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Let espeak-ng say a word.

    speed is in words per minute, pitch in 0..99. Returns (samples,) floats at 8 kHz.
    """
    options = ["-z", "-v", voice, "-s", str(speed), "-p", str(pitch)]
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "word.wav")
        command = ["espeak-ng", *options, "-w", str(wav), word]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0 or not wav.exists():
            fail(f"espeak-ng cannot speak as {voice}: {result.stderr.strip()}")
        rate, samples = wavfile.read(wav)
    return resample_poly(samples.astype(np.float64), SAMPLE_RATE, rate)


def polish(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Trim silence at both ends, add faint noise, bring the peak to 0.9.

    samples: (n,) floats. Returns (m,) int16, m <= n.
    """
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1] / np.abs(samples).max()
    samples = samples + NOISE * rng.standard_normal(len(samples))
    return np.rint(PEAK * 32767 * samples / np.abs(samples).max()).astype(np.int16)


def main() -> None:
    """Speak every digit in every voice at ten speeds and pitches."""
    folder = output_path(__doc__, "spoken_digits_small")
    if shutil.which("espeak-ng") is None:
        fail("espeak-ng is missing: apt install espeak-ng")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        fail(f"cannot make {folder}: {error.strerror}")

    rng = np.random.default_rng(1234)
    seconds = []
    for speaker, voice in VOICES.items():
        for digit, word in enumerate(WORDS):
            for index in range(NUM_TAKES):
                speed, pitch = rng.integers(130, 190), rng.integers(25, 75)
                samples = polish(speak(word, voice, speed, pitch), rng)
                with replacing(folder / f"{digit}_{speaker}_{index}.wav") as temporary:
                    wavfile.write(temporary, SAMPLE_RATE, samples)
                seconds.append(len(samples) / SAMPLE_RATE)
    print(f"{folder}: {len(seconds)} files of {min(seconds):.2f}-{max(seconds):.2f} s")


if __name__ == "__main__":
    main()
