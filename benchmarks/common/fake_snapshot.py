"""A snapshot of CosyVoice2 in the original's files, with random weights.

    python benchmarks/common/fake_snapshot.py FOLDER RANKS --layers 2

writes one of the original's width, with Qwen2's own vocabulary, whose ranks the
package ``dashscope`` carries. The tests make small ones.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import QWEN2_0_5B
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.qwen2_vocabulary import (  # noqa: E402
    check_vocabulary,
    read_ranks,
    write_vocabulary,
)
from common.sentences import random_sentences  # noqa: E402

TOKENIZER_FOLDER = "CosyVoice-BlankEN"
SPEECH_TOKENIZER = {"n_state": 1280, "n_heads": 20, "n_layers": 6}
XVECTOR_DIM = 192
#: What the original's config.json has besides the sizes, which stand between.
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_sliding_window": False,
}


def write_config(folder: Path, sizes: Mapping[str, object]) -> None:
    """Write the sizes of the language model's trunk as the original does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps({**CONFIG, **sizes}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(f"{config}\n")


def make_llm(path: Path, sizes: Mapping[str, object]) -> None:
    """Write ``llm.pt`` with the original's text head and counters."""
    state = CosyVoice2LM(dict(sizes)).state_dict()
    trunk = "llm.model.model."
    upstream = {
        trunk + name[4:] if name.startswith("llm.") else name: tensor
        for name, tensor in state.items()
    }
    upstream["llm.model.lm_head.weight"] = state["llm.embed_tokens.weight"]
    torch.save({**upstream, "epoch": 3, "step": 1000}, path)


def make_speech_tokenizer(path: Path, sizes: Mapping[str, int]) -> None:
    """Write an S3TokenizerV2, with the names of the original's ONNX export."""
    import onnx
    import s3tokenizer
    from onnx import helper, numpy_helper
    from s3tokenizer.model_v2 import ModelConfig

    config = ModelConfig(
        n_audio_state=sizes["n_state"],
        n_audio_head=sizes["n_heads"],
        n_audio_layer=sizes["n_layers"],
    )
    model = s3tokenizer.S3TokenizerV2("speech_tokenizer_v2_25hz", config)
    nodes, initializers = [], []

    def add(operation, name, **weights):
        for key, weight in weights.items():
            array = weight.detach().numpy().copy()
            initializers.append(numpy_helper.from_array(array, key))
        inputs = ["x", *weights]
        nodes.append(helper.make_node(operation, inputs, ["y"], name=name))

    fixed = {
        "encoder.conv1.weight": "onnx::Conv_2216",
        "encoder.conv1.bias": "onnx::Conv_2217",
        "encoder.conv2.weight": "onnx::Conv_2218",
        "encoder.conv2.bias": "onnx::Conv_2219",
        "quantizer._codebook.project_down.weight": "onnx::MatMul_2536",
        "quantizer._codebook.project_down.bias": "quantizer.project_in.bias",
    }
    state = model.state_dict()
    for name, tensor in state.items():
        layer, _, kind = name.removeprefix("encoder").rpartition(".")
        layer = layer.replace(".", "/").replace("blocks/", "blocks.")
        layer = layer.replace("mlp/", "mlp/mlp.")
        if name in fixed:
            weight = tensor.t() if tensor.dim() == 2 else tensor
            add("Conv", name, **{fixed[name]: weight})
        elif layer.endswith("_ln"):
            if kind == "weight":
                bias = state[name.removesuffix("weight") + "bias"]
                pair = {name: tensor, f"{name}_bias": bias}
                add("LayerNormalization", f"{layer}/LayerNormalization", **pair)
        elif kind == "bias":
            add("Add", f"{layer}/Add", **{name: tensor})
        elif tensor.dim() == 2:
            add("MatMul", f"{layer}/MatMul", **{name: tensor.t()})
        else:
            add("Conv", f"{layer}/Conv", **{name: tensor})
    graph = helper.make_graph(nodes, "s3tokenizer", [], [], initializers)
    onnx.save(helper.make_model(graph), path)


def make_speaker_encoder(path: Path) -> None:
    """Write a model with CAM++'s input and output: a projected power."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(80, XVECTOR_DIM, generator=generator).numpy()
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["feats", "feats"], ["squares"]),
            helper.make_node(
                "ReduceMean", ["squares"], ["mean"], axes=[1], keepdims=0
            ),
            helper.make_node("MatMul", ["mean", "weight"], ["xvector"]),
        ],
        "speaker",
        [
            helper.make_tensor_value_info(
                "feats", TensorProto.FLOAT, [1, "T", 80]
            )
        ],
        [
            helper.make_tensor_value_info(
                "xvector", TensorProto.FLOAT, [1, XVECTOR_DIM]
            )
        ],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def make_models(
    folder: Path,
    qwen2: Mapping[str, object],
    flow: Mapping[str, int],
    vocoder: Mapping[str, int],
    speech_tokenizer: Mapping[str, int],
    seed: int = 0,
) -> None:
    """Write all files of a snapshot but those of its text tokenizer."""
    torch.manual_seed(seed)
    make_llm(folder / "llm.pt", qwen2)
    torch.save(CosyVoice2Flow(**flow).state_dict(), folder / "flow.pt")
    torch.save(HiFTGenerator(**vocoder).state_dict(), folder / "hift.pt")
    make_speech_tokenizer(folder / "speech_tokenizer_v2.onnx", speech_tokenizer)
    make_speaker_encoder(folder / "campplus.onnx")


def main() -> None:
    """Write a snapshot of the original's width."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("ranks", type=Path, help="qwen.tiktoken of dashscope")
    parser.add_argument(
        "--layers", type=int, default=2, help="of the language model, of 24"
    )
    parser.add_argument("--sentences", type=int, default=200)
    args = parser.parse_args()
    qwen2 = {**QWEN2_0_5B, "num_hidden_layers": args.layers}
    tokenizer = args.folder / TOKENIZER_FOLDER
    write_config(tokenizer, qwen2)
    ranks = read_ranks(args.ranks)
    write_vocabulary(tokenizer, ranks)
    check_vocabulary(tokenizer, ranks, random_sentences(args.sentences))
    make_models(args.folder, qwen2, {}, {}, SPEECH_TOKENIZER)


if __name__ == "__main__":
    main()
