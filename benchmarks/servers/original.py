"""The original project's way: Flask, a form, its network, `model.predict` for each photo.

The network is not trained: its speed does not depend on its weights.
"""

import os

import cv2
import numpy as np
from flask import Flask, Response, jsonify, request

from signs.training import networks

CLASSES = 43
app = Flask(__name__)
model = networks.classic(100, 1, CLASSES, 60)
model.predict(np.zeros((1, 100, 100, 1), np.float32), verbose=0)


@app.post("/predict")
def predict() -> Response:
    """Class and probability."""
    content = np.frombuffer(request.files["image"].read(), np.uint8)
    photo = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    assert photo is not None
    equalized = cv2.equalizeHist(cv2.resize(photo, (100, 100)))
    row = model.predict(equalized[None, ..., None].astype(np.float32), verbose=0)[0]
    return jsonify(prediction=int(row.argmax()), confidence=float(row.max()))


@app.get("/readyz")
def ready() -> str:
    """Whether it is up."""
    return ""


if __name__ == "__main__":
    app.run("127.0.0.1", int(os.environ["PORT"]))
