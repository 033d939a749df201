"""Where the pipeline's files are, from the root of the repository."""

from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")

DATA = Path("data")
PREPARED = DATA / "prepared"
EVALUATION = DATA / "evaluation"
PREDICTIONS = EVALUATION / "predictions.csv"
OOD_PREDICTIONS = EVALUATION / "ood_predictions.csv"
SALIENCY = EVALUATION / "saliency.npy"

CLASSIFIER = Path("models/classifier")
PRETRAINED = Path("pretrained")
KERAS_MODEL = Path("models/model.keras")
FLOAT_MODEL = Path("models/model.onnx")  # the classifier's may have 8-bit integers

METRICS = Path("metrics")
PREPROCESS_METRICS = METRICS / "preprocess"
AUDIT = PREPROCESS_METRICS / "audit.json"
TRAIN_METRICS = METRICS / "train"
TIMING = METRICS / "timing.json"
EVALUATE_METRICS = METRICS / "evaluate"
HEADLINE = EVALUATE_METRICS / "metrics.json"
PICTURES = METRICS / "report"

REPORT = Path("report.html")
MODEL_CARD = Path("docs/model_card.md")
