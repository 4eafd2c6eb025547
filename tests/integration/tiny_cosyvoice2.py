"""A snapshot of CosyVoice2 in the original's files, small and random."""

import json
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import torch

#: What the tokenizer has read; it knows other text byte by byte.
TOKENIZER_TEXT = [
    "We won the game, but he left! Come and see it now.",
    "Don't you think so? It's 1,000.5 dollars; \"really\" well-kept.",
    "我们赢了,但是他走了。你好吗?今天天气很好!",
    "twenty one dollars and three cents on the fourth of march",
] * 20
QWEN2 = {
    "vocab_size": 448,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
FLOW = {
    "token_dim": 8,
    "encoder_dim": 8,
    "encoder_heads": 2,
    "encoder_ffn": 16,
    "encoder_blocks": 1,
    "encoder_up_blocks": 1,
    "estimator_channels": 8,
    "estimator_heads": 2,
    "estimator_head_dim": 4,
    "estimator_blocks": 1,
    "estimator_mid_blocks": 1,
}
VOCODER = {"base_channels": 16, "f0_cond_channels": 8}
SPEECH_TOKENIZER = {"n_state": 64, "n_heads": 1, "n_layers": 1}
#: What makes hparams/backbone/cosyvoice2.yaml fit such a snapshot.
BACKBONE = {
    "text_dim": QWEN2["hidden_size"],
    "flow": FLOW,
    "vocoder": VOCODER,
    "speech_tokenizer": SPEECH_TOKENIZER,
    "generation": {"min_ratio": 1.0, "max_ratio": 2.0},
}


def make_tokenizer(folder):
    """A small byte-level BPE tokenizer in the files of Qwen2's."""
    from tokenizers import ByteLevelBPETokenizer

    folder.mkdir(parents=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TOKENIZER_TEXT, vocab_size=420, show_progress=False
    )
    tokenizer.save_model(str(folder))
    config = {"model_type": "qwen2", **QWEN2}
    (folder / "config.json").write_text(json.dumps(config))


def make_llm(path):
    """``llm.pt`` with the text head and the counters of the original."""
    state = CosyVoice2LM(QWEN2).state_dict()
    trunk = "llm.model.model."
    upstream = {
        trunk + name[4:] if name.startswith("llm.") else name: tensor
        for name, tensor in state.items()
    }
    upstream["llm.model.lm_head.weight"] = state["llm.embed_tokens.weight"]
    torch.save({**upstream, "epoch": 3, "step": 1000}, path)


def make_speech_tokenizer(path):
    """Weights of an S3TokenizerV2, named as its ONNX export names them."""
    import onnx
    import s3tokenizer
    from onnx import helper, numpy_helper
    from s3tokenizer.model_v2 import ModelConfig

    config = ModelConfig(
        n_audio_state=SPEECH_TOKENIZER["n_state"],
        n_audio_head=SPEECH_TOKENIZER["n_heads"],
        n_audio_layer=SPEECH_TOKENIZER["n_layers"],
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


def make_speaker_encoder(path):
    """An ONNX model with CAM++'s input and output: a projected power."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(80, 192, generator=generator).numpy()
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
        [helper.make_tensor_value_info("xvector", TensorProto.FLOAT, [1, 192])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def make_snapshot(folder):
    """Writes all files that are used of a snapshot."""
    folder = Path(folder)
    torch.manual_seed(0)
    make_tokenizer(folder / "CosyVoice-BlankEN")
    make_llm(folder / "llm.pt")
    torch.save(CosyVoice2Flow(**FLOW).state_dict(), folder / "flow.pt")
    torch.save(HiFTGenerator(**VOCODER).state_dict(), folder / "hift.pt")
    make_speech_tokenizer(folder / "speech_tokenizer_v2.onnx")
    make_speaker_encoder(folder / "campplus.onnx")
