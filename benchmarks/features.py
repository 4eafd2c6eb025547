"""Speed of emotion2vec in this package's wrapper and in funasr's `generate`.

Both load a model of the base size (768, 93.8 million parameters) with random
weights from the same folder, and read the same generated wavs: noise with the
lengths of ESD. funasr takes them one by one, as always; the wrapper takes
batches of similar length, the longest first, as the recipe does (on a CPU,
small batches are faster). Each runs in its own process, so that its peak memory
can be measured.

Prints JSON: frames per second of each (the best of several alternating rounds,
since the speed of a machine varies), their ratio, the largest difference of
their frames, their peak memory, and the growth of memory over the second half
of the files.

    python benchmarks/features.py
    python benchmarks/features.py --n_files 500 --size tiny  # memory growth
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from operator import itemgetter
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.integrations.emotion_features.emotion2vec import (
    Emotion2vec,
)

import numpy as np
import torch
import yaml
from common.reporting import (
    make_parser,
    peak_bytes,
    print_result,
    resident_bytes,
)
from safetensors.torch import load_file, save_file
from speechbrain.dataio import audio_io
from torch.nn.utils.rnn import pad_sequence

SAMPLE_RATE = 16000
SPEED = "frames_per_second"
LABELS = ("angry", "happy", "neutral", "sad", "surprised", "unuse_0", "<unk>")
#: Width, depth, depth of the prenet, heads, channels of the convolutions.
SIZES = {
    "tiny": (64, 2, 1, 4, 32),
    "base": (768, 8, 4, 12, 512),
    "plus_large": (1024, 16, 8, 16, 512),
}


def emotion2vec_config(size: str) -> dict:
    """Return the configuration of an emotion2vec in funasr's format."""
    dim, depth, prenet_depth, heads, channels = SIZES[size]
    no_drop = {"start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0}
    audio = {
        "type": "AUDIO",
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": f"[({channels}, 10, 5)] + [({channels}, 3, 2)]"
        f" * 4 + [({channels}, 2, 2)] * 2",
        "conv_pos_width": 95,
        "conv_pos_groups": 16,
        "conv_pos_depth": 5,
        "conv_pos_pre_ln": False,
        "prenet_depth": prenet_depth,
        "prenet_layerdrop": 0.05,
        "prenet_dropout": 0.1,
        "num_extra_tokens": 10,
        "init_extra_token_zero": True,
        "local_grad_mult": 1.0,
        "use_alibi_encoder": True,
        "alibi_scale": 1.0,
        "learned_alibi": False,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "learned_alibi_scale_per_layer": False,
        "num_alibi_heads": heads,
        "model_depth": depth,
        "decoder": None,
        **no_drop,
    }
    model = {
        "depth": depth,
        "num_heads": heads,
        "embed_dim": dim,
        "mlp_ratio": 4.0,
        "norm_eps": 1e-5,
        "norm_affine": True,
        "layer_norm_first": False,
        "end_of_block_targets": False,
        "encoder_dropout": 0.1,
        "post_mlp_drop": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "dropout_input": 0.0,
        "layerdrop": 0.05,
        "clone_batch": 1,
        "average_top_k_layers": depth,
        "normalize": True,
        "modalities": {"audio": audio},
        **no_drop,
    }
    return {
        "model": "Emotion2vec",
        "model_conf": model,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
        "scope_map": ["d2v_model.", "none"],
    }


def write_random_emotion2vec(folder: Path, size: str, seed: int = 0) -> Path:
    """Write an emotion2vec with random weights to a folder; return it."""
    from funasr.models.emotion2vec.model import Emotion2vec as FunASRModel

    folder.mkdir(parents=True)
    config = emotion2vec_config(size)
    torch.manual_seed(seed)
    model = FunASRModel(model_conf=config["model_conf"], vocab_size=len(LABELS))
    state = {
        name if name.startswith("proj.") else f"d2v_model.{name}": values
        for name, values in model.state_dict().items()
    }
    torch.save({"model": state}, folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "tokens.txt").write_text("\n".join(LABELS) + "\n")
    files = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"token_list": "tokens.txt"},
    }
    (folder / "configuration.json").write_text(
        json.dumps({"model": {"type": "funasr"}, "file_path_metas": files})
    )
    return folder


def write_wavs(folder: Path, n_files: int, seed: int = 0) -> list[Path]:
    """Write wavs of noise of varying level, 1.5 to 5 s long."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    paths = []
    for number in range(n_files):
        seconds = 1.5 + 3.5 * torch.rand(1, generator=generator).item()
        time_axis = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        noise = torch.randn(len(time_axis), generator=generator)
        swell = 0.06 + 0.05 * torch.sin(2 * torch.pi * 4 * time_axis)
        paths.append(folder / f"{number:04d}.wav")
        audio_io.save(str(paths[-1]), (noise * swell)[None], SAMPLE_RATE)
    return paths


class Run:
    """Measure time and memory of the extraction of a number of files."""

    def __init__(self, n_files: int):
        self.n_files = n_files
        self.features = {}
        self.grown_from = None
        self.start = time.perf_counter()

    def add(self, features: dict) -> None:
        """Keep the frames (F, D) of some files, by name."""
        self.features.update(features)
        if self.grown_from is None and len(self.features) >= self.n_files / 2:
            # The frames kept here do not count as growth.
            self.grown_from = resident_bytes() - self._kept()

    def _kept(self) -> int:
        return sum(f.numel() * f.itemsize for f in self.features.values())

    def result(self) -> dict:
        """Return speed and memory."""
        seconds = time.perf_counter() - self.start
        n_frames = sum(len(f) for f in self.features.values())
        peak = peak_bytes() - self._kept()
        growth = resident_bytes() - self._kept() - self.grown_from
        return {
            SPEED: round(n_frames / seconds, 1),
            "peak_memory_mb": round(peak / 2**20),
            "memory_growth_mb": round(growth / 2**20),
        }


def run_funasr(model: Path, wavs: list[Path], args) -> Run:
    """Extract frames with funasr's `generate`, one file after another."""
    from funasr import AutoModel

    funasr = AutoModel(
        model=str(model),
        device=args.device,
        disable_update=True,
        disable_pbar=True,
        log_level="ERROR",
        ncpu=args.n_threads,
    )

    def frames(path):
        output = funasr.generate(
            str(path), granularity="frame", extract_embedding=True
        )
        return {path.stem: torch.from_numpy(output[0]["feats"])}

    frames(wavs[0])
    run = Run(len(wavs))
    for path in wavs:
        run.add(frames(path))
    return run


def run_wrapper(model: Path, wavs: list[Path], args) -> Run:
    """Extract frames with this package, in batches of similar length."""
    extractor = Emotion2vec(str(model)).to(args.device)

    def frames(paths):
        batch = [load_audio(path, SAMPLE_RATE) for path in paths]
        padded = pad_sequence(batch, batch_first=True)
        lens = torch.tensor([len(wav) for wav in batch]) / padded.shape[1]
        features, lens = extractor(padded.to(args.device), lens.to(args.device))
        n_frames = torch.round(lens * features.shape[1]).long().tolist()
        features = features.cpu()
        return {
            path.stem: item[:n].clone()
            for path, item, n in zip(paths, features, n_frames)
        }

    frames(wavs[:1])
    run = Run(len(wavs))
    by_length = sorted(wavs, key=lambda path: -path.stat().st_size)
    for first in range(0, len(wavs), args.batch_size):
        run.add(frames(by_length[first : first + args.batch_size]))
    return run


RUNS = {"funasr": run_funasr, "wrapper": run_wrapper}


def run_apart(name: str, folder: Path, arguments: list[str]) -> dict:
    """Run one of `RUNS` in a separate process."""
    command = [sys.executable, __file__, *arguments]
    command += ["--run", name, "--folder", str(folder)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(output.stdout.decode().splitlines()[-1])


def compare(folder: Path) -> float:
    """Return the largest difference between the frames of the runs."""
    ours, theirs = (
        load_file(folder / f"{name}.safetensors")
        for name in ("wrapper", "funasr")
    )
    shapes = [
        {name: frames.shape for name, frames in run.items()}
        for run in (ours, theirs)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The runs differ in files or frames: use the tested funasr version."
        )
    return max(float((ours[n] - theirs[n]).abs().max()) for n in ours)


def main() -> None:
    """Measure and print the comparison."""
    parser = make_parser(
        __doc__, n_files=24, batch_size=(2, "files"), n_rounds=3, n_threads=1
    )
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.n_threads)
    if args.run:
        wavs = sorted((args.folder / "wavs").glob("*.wav"))
        run = RUNS[args.run](args.folder / "model", wavs, args)
        result = run.result()
        save_file(run.features, args.folder / f"{args.run}.safetensors")
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(sys.stderr):  # funasr prints
            write_random_emotion2vec(folder / "model", args.size)
        write_wavs(folder / "wavs", args.n_files)
        rounds = [
            {run: run_apart(run, folder, sys.argv[1:]) for run in RUNS}
            for _ in range(args.n_rounds)
        ]
        difference = compare(folder)
    runs = {
        run: max((one[run] for one in rounds), key=itemgetter(SPEED))
        for run in RUNS
    }
    speeds = [runs[name][SPEED] for name in ("wrapper", "funasr")]
    print_result(
        "features",
        model=f"emotion2vec {args.size}, random weights",
        device=args.device,
        n_threads=args.n_threads,
        files=args.n_files,
        batch_size=args.batch_size,
        **runs,
        speed_ratio=round(speeds[0] / speeds[1], 2),
        max_difference=float(np.format_float_scientific(difference, 2)),
    )


if __name__ == "__main__":
    main()
