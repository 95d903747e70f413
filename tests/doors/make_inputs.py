"""Pictures, texts, a table of people and a small ONNX file, for the doors."""

import csv
import json

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

rng = np.random.default_rng(0)
with open("memes.jsonl", "w") as memes, open("texts.csv", "w", newline="") as texts:
    table = csv.writer(texts)
    table.writerow(["id", "text", "label"])
    for place, text in enumerate(["dial seven now", "call me later", "dial nine", "hello there"]):
        levels = (rng.random((8, 8, 3)) * 80 + 160 * ("dial" in text)).astype(np.uint8)
        Image.fromarray(levels).save(f"p{place}.png")
        memes.write(json.dumps({"id": f"m{place}", "text": text, "image": f"p{place}.png"}) + "\n")
        table.writerow([f"t{place}", text, "unsafe" if "dial" in text else "safe"])

with open("people.csv", "w", newline="") as people:
    table = csv.writer(people)
    table.writerow(["age", "work", "hours", "rich"])
    for _ in range(40):
        age, hours, work = rng.integers(20, 60), rng.integers(10, 50), rng.integers(3)
        table.writerow([age, f"w{work}", hours, int(age + hours > 70)])

images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, 8, 8])
means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["b"])
axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
node = helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0)
graph = helper.make_graph([node], "brightness", [images], [means], [axes])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "small.onnx")
