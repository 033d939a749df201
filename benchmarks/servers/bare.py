"""The least that can answer with a classifier: uvicorn, Starlette and ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from signs.data import images
from signs.inference.classifier import Classifier

classifier = Classifier(Path(os.environ["CLASSIFIER"]), threads=1)
classifier.logits(np.zeros((1, *classifier.input_shape), np.uint8))


async def predict(request: Request) -> Response:
    """Class and its probability, nothing else."""
    photo = images.decode(await request.body())
    row = classifier.probabilities(classifier.prepare([photo]))[0]
    best = int(row.argmax())
    metadata = classifier.metadata
    return JSONResponse(
        {
            "prediction": metadata.class_ids[best],
            "name": metadata.names[best],
            "confidence": float(row[best]),
        }
    )


async def ready(_: Request) -> Response:
    """Whether it is up."""
    return Response()


app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])
