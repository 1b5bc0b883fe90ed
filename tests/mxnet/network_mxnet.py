"""Run in the environment that has mxnet: a small LResNet-E-IR with drawn weights, its file and its embeddings."""

import sys

import mxnet as mx
import numpy as np
from cases import EMBEDDING, PICTURES, UNITS, WIDTHS

NORM = {"eps": 2e-5, "momentum": 0.9}


def convolution(data, width, kernel, stride, name):
    sides = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": (kernel // 2, kernel // 2)}
    return mx.sym.Convolution(data, num_filter=width, no_bias=True, name=name, **sides)


def unit(data, width, stride, first, name):
    """Norm, convolution, norm, PReLU, convolution with the stride, norm, plus the shortcut."""
    body = mx.sym.BatchNorm(data, fix_gamma=False, name=f"{name}_bn1", **NORM)
    body = convolution(body, width, 3, 1, f"{name}_conv1")
    body = mx.sym.BatchNorm(body, fix_gamma=False, name=f"{name}_bn2", **NORM)
    body = mx.sym.LeakyReLU(body, act_type="prelu", name=f"{name}_relu1")
    body = convolution(body, width, 3, stride, f"{name}_conv2")
    body = mx.sym.BatchNorm(body, fix_gamma=False, name=f"{name}_bn3", **NORM)
    if first:
        data = convolution(data, width, 1, stride, f"{name}_conv1sc")
        data = mx.sym.BatchNorm(data, fix_gamma=False, name=f"{name}_sc", **NORM)
    return body + data


def network():
    body = (mx.sym.identity(mx.sym.Variable("data"), name="id") - 127.5) * 0.0078125
    body = convolution(body, WIDTHS[0], 3, 1, "conv0")
    body = mx.sym.BatchNorm(body, fix_gamma=False, name="bn0", **NORM)
    body = mx.sym.LeakyReLU(body, act_type="prelu", name="relu0")
    for stage, count in enumerate(UNITS):
        for number in range(count):
            first = number == 0
            name = f"stage{stage + 1}_unit{number + 1}"
            body = unit(body, WIDTHS[stage], 2 if first else 1, first, name)
    body = mx.sym.BatchNorm(body, fix_gamma=False, name="bn1", **NORM)
    body = mx.sym.Dropout(body, p=0.4)
    body = mx.sym.FullyConnected(body, num_hidden=EMBEDDING, name="pre_fc1")
    return mx.sym.BatchNorm(body, fix_gamma=True, name="fc1", **NORM)


def main():
    folder = sys.argv[1]
    draw, symbol = np.random.RandomState(5), network()
    pictures = draw.randint(0, 256, (PICTURES, 3, 112, 112)).astype(np.uint8)  # RGB
    bound = symbol.simple_bind(mx.cpu(), grad_req="null", data=pictures.shape)
    for name, array in {**bound.arg_dict, **bound.aux_dict}.items():
        if name == "data":
            continue
        if name.endswith(("_var", "_gamma")):  # the file's gamma of fc1 is not what the graph takes
            value = draw.uniform(0.5, 1.5, array.shape)
        elif name.endswith(("_mean", "_beta", "_bias")):
            value = draw.normal(0, 0.2, array.shape)
        else:
            value = draw.normal(0, (2 / np.prod(array.shape[1:])) ** 0.5, array.shape)
        array[:] = mx.nd.array(value)
    made = bound.forward(is_train=False, data=mx.nd.array(pictures))[0].asnumpy()
    saved = {f"arg:{name}": array for name, array in bound.arg_dict.items() if name != "data"}
    saved.update({f"aux:{name}": array for name, array in bound.aux_dict.items()})
    mx.nd.save(f"{folder}/model-0000.params", saved)
    np.save(f"{folder}/pictures.npy", pictures)
    np.save(f"{folder}/embeddings.npy", made)
    print(len(made))


if __name__ == "__main__":
    main()
