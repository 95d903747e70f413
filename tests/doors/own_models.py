"""Models as users have them: a torch module, an sklearn pipeline, a function of texts. None knows of this package."""

import sys


def __getattr__(name):
    """Each one is made, and its library imported, when it is asked for."""
    made = {"torch_module": _torch_module, "pipeline": _pipeline}.get(name)
    if made is None:
        raise AttributeError(name)
    value = made()
    setattr(sys.modules[__name__], name, value)
    return value


def reads(texts):
    return ["dial" in text for text in texts]


def _torch_module():
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, images):
            score = images.mean((1, 2, 3)) - 0.4
            return torch.stack([-score, score], 1)

    return Brightness()


def _pipeline():
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pd.read_csv("people.csv")
    encode = make_column_transformer((OneHotEncoder(), ["work"]), remainder="passthrough")
    return make_pipeline(encode, LogisticRegression(max_iter=2000)).fit(table.drop(columns="rich"), table["rich"])
