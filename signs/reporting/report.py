"""One HTML page about a trained classifier, in the order in which a person asks.

The page holds all it shows: it can be mailed, archived, printed and opened from a disk.
"""

import base64
import html
import json
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

TEMPLATE = Path(__file__).parent / "templates/report.html"
KINDS = {".png": "image/png", ".jpg": "image/jpeg"}
SHOWN_PAIRS, SHOWN_PROBLEMS = 15, 20
ABSENT = "–"
COUNTS = ["files", "distinct", "groups", "train", "validation", "test", "correct"]
PAIR = ["true_id", "true_name", "predicted_id", "predicted_name", "count", "share"]

Json = dict[str, Any]


def write_page(metrics: Path, params: Json, labels: pd.DataFrame, target: Path) -> None:
    """Write the report; what a stage has not written is left out.

    Args:
        metrics: the folder with each stage's metrics, tables and pictures.
        params: all settings, as in params.yaml; "provenance" in it is shown apart.
        labels: ClassId and Name of the classes that the network knows.
        target: the HTML file.
    """
    evaluated = _read_json(metrics / "evaluate/details.json")
    trained = _read_json(metrics / "train/metrics.json")
    audit = _read_json(metrics / "preprocess/audit.json")
    classes = _classes(metrics, labels)
    sections = {
        "averages": ("What the numbers average over", _averages(evaluated, classes)),
        "mistakes": ("Mistakes", _mistakes(metrics)),
        "diagrams": ("Classes and confidence", _diagrams(metrics)),
        "robustness": ("Bad conditions", _robustness(metrics)),
        "elsewhere": ("Another photo set", _elsewhere(evaluated, params)),
        "strangers": ("Signs it does not know", _strangers(metrics, evaluated, params)),
        "committee": ("A committee", _committee(evaluated)),
        "training": ("Training", _training(metrics, trained)),
        "data": ("Data", _data(metrics, audit, params)),
        "classes": ("Every class", _class_table(classes)),
        "settings": ("Settings and provenance", _settings(params)),
    }
    shown = {key: section for key, section in sections.items() if section[1]}
    body = _verdict(evaluated, trained, audit, params, len(labels))
    links = "\n".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in shown.items())
    body += f'<nav aria-label="Sections">\n{links}\n</nav>\n'
    for key, (title, content) in shown.items():
        body += f'<section id="{key}">\n<h2>{title}</h2>\n{content}</section>\n'
    page = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    title = html.escape(f"Traffic signs: {params.get('dataset')}")
    target.write_text(page.substitute(title=title, body=body), encoding="utf-8")


def _verdict(evaluated: Json, trained: Json, audit: Json, params: Json, classes: int) -> str:
    test = evaluated.get("test", {})
    network = params.get("train", {}).get("network", ABSENT)
    interval = f"{_percent(test.get('accuracy_low'))} to {_percent(test.get('accuracy_high'))}"
    groups = f" in {_count(test['groups'])} groups" if "groups" in test else ""
    tested = f"{_count(test.get('images'))} photos{groups} of {_count(test.get('classes'))} classes"
    figures = [
        ("Test accuracy", _percent(test.get("accuracy")), f"95 % interval {interval}"),
        (
            "Test photos",
            _count(test.get("images")),
            f"{_count(test.get('classes'))} classes{groups}",
        ),
        (
            "Calibration error (ECE)",
            _number(test.get("ece"), 4),
            f"{_number(test.get('ece_uncalibrated'), 4)} before temperature scaling",
        ),
        (
            "Best epoch",
            f"{_count(trained.get('best', {}).get('epoch'))} of {_count(trained.get('step'))}",
            "by log loss on the validation photos",
        ),
        ("Parameters", _count(trained.get("parameters")), f"network: {network}"),
    ]
    cards = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd>"
        f'<dd class="note">{_text(note)}</dd></div>\n'
        for name, value, note in figures
    )
    about = f"Data set {params.get('dataset')}, {classes} classes, network {network}"
    return (
        f'<p class="kicker">{_text(about)}</p>\n'
        f"<h1>{_percent(test.get('accuracy'))} of the test photos are read right</h1>\n"
        f'<p class="lead">95 % interval {_text(interval)}, on {_text(tested)}.</p>\n'
        f'{_leak_check(audit)}{_onnx_check(evaluated)}<dl class="figures">\n{cards}</dl>\n'
    )


def _leak_check(audit: Json) -> str:
    leaks = audit.get("leaks")
    if leaks is None:
        return ""
    percent = leaks.get("test_percent", 0)
    random = leaks.get("test_percent_if_split_at_random")
    comparison = (
        f" Split at random, {_number(random, 1)} % would have an identical one." if random else ""
    )
    if not any(leaks.get(kind, 0) for kind in ("exact", "group", "near")) and not percent:
        return _mark(True, "No leak: no test photo has a twin in training.", comparison)
    return _mark(
        False,
        f"Leak: {_number(percent, 1)} % of the test photos have an identical twin in training.",
        f" {leaks.get('group', 0):,} photos share a group across splits: the accuracy is too high.",
    )


def _onnx_check(evaluated: Json) -> str:
    difference = evaluated.get("onnx_max_difference")
    if difference is None:
        return ""
    same = evaluated.get("onnx_same_predictions")
    same_text = f" Same answers: {_percent(float(same))}." if same is not None else ""
    # The evaluate stage fails where they differ by more than allowed.
    detail = f" Their probabilities differ by at most {difference:.0e}.{same_text}"
    return _mark(True, "The exported ONNX model agrees with the Keras model.", detail)


def _averages(evaluated: Json, classes: pd.DataFrame) -> str:
    test = evaluated.get("test", {})
    if not test:
        return ""
    content = ""
    if "test" in classes:
        missing = [f"{row.class_id} {row.name_}" for row in classes.itertuples() if not row.test]
        content = (
            f"<p>{len(missing)} of {len(classes)} classes have too few distinct photos to be "
            f"tested, so no number on this page speaks of them: {_text(', '.join(missing))}.</p>\n"
            if missing
            else f"<p>All {len(classes)} classes are tested.</p>\n"
        )
    validation = evaluated.get("validation", {})
    threshold = _number(evaluated.get("threshold"), 3)
    energy = _number(evaluated.get("energy_threshold"), 3)
    rows = [
        (
            "Accuracy",
            _percent(test.get("accuracy")),
            "of all test photos; frequent classes count more",
        ),
        (
            "Balanced accuracy",
            _percent(test.get("balanced_accuracy")),
            "mean recall of the tested classes",
        ),
        ("Macro F1", _number(test.get("macro_f1"), 4), "mean over the tested classes"),
        (
            "Top-3 accuracy",
            _percent(test.get("top3_accuracy")),
            "the right class is among the first three",
        ),
        ("Log loss", _number(test.get("log_loss"), 4), "nats, after temperature scaling"),
        (
            "Known",
            _percent(test.get("known")),
            f"answers with a confidence of {threshold} and an energy score of {energy} or more",
        ),
        (
            "Precision of the known",
            _percent(test.get("accepted_precision")),
            "of those, right answers",
        ),
        ("Temperature", _number(evaluated.get("temperature"), 3), "fitted on validation"),
        ("Validation accuracy", _percent(validation.get("accuracy")), "of the chosen epoch"),
        ("Validation ECE", _number(validation.get("ece"), 4), "the temperature was fitted on it"),
    ]
    rows = [row for row in rows if row[1] != ABSENT]
    return content + html_table(
        "On the test photos, unless said otherwise", ["measure", "value", "what it is"], rows, {1}
    )


def _mistakes(metrics: Path) -> str:
    content = html_picture(
        metrics / "evaluate/mistakes.jpg",
        "Gallery of wrongly read test photos",
        "The wrong answers given with the most confidence. Red: the answer and its "
        "confidence; below, the true class and the file. In the corner, what the network saw: the "
        "redder a part, the more its hiding weakens the answer.",
    )
    pairs = _read_table(metrics / "evaluate/confusions.csv")
    if len(pairs):
        pairs = pairs.sort_values("count", ascending=False, kind="stable").head(SHOWN_PAIRS)
        rows = [
            [f"{a} {true}", f"{b} {predicted}", _count(count), _percent(share)]
            for a, true, b, predicted, count, share in pairs[PAIR].itertuples(index=False)
        ]
        head = ["true class", "read as", "photos", "share of the true class"]
        content += "<h3>Most confused pairs</h3>\n" + html_table(
            "Ordered by count", head, rows, {2, 3}
        )
    return content


def _diagrams(metrics: Path) -> str:
    folder = metrics / "evaluate"
    return (
        html_picture(
            folder / "confusion.png",
            "Confusion matrix of the test photos",
            "Confusion matrix. A photo off the diagonal was read wrong.",
        )
        + html_picture(
            folder / "recall.png",
            "Bars of each class’s recall with 95 % intervals",
            "With few test photos the interval is wide, even if all were read right.",
        )
        + html_picture(
            folder / "reliability.png",
            "Reliability diagrams before and after temperature scaling",
            "On the dashed line, confidence is what it says: of the answers with 90 % confidence, "
            "90 % are right. Below it the network is too sure.",
        )
    )


def _robustness(metrics: Path) -> str:
    table = _read_table(metrics / "evaluate/corruptions.csv")
    if not len(table):
        return ""
    shares = table.pivot(index="corruption", columns="level", values="accuracy")
    shares = shares.assign(mean=shares.mean(axis=1)).sort_values("mean", kind="stable")
    rows = [
        [str(kind), *map(_percent, row)]
        for kind, row in zip(shares.index, shares.to_numpy(), strict=True)
    ]
    head = ["", *(f"level {level}" for level in shares.columns[:-1]), "mean"]
    caption = f"Share of the same {_count(table['photos'].iloc[0])} test photos that are read right"
    return html_picture(
        metrics / "evaluate/corruptions.jpg",
        "A photo in each of the bad conditions, with the accuracy there",
        "Accuracy where light, weather, camera or network do harm, from mild to severe.",
    ) + html_table(caption, head, rows, range(1, len(head)))


def _elsewhere(evaluated: Json, params: Json) -> str:
    figures = evaluated.get("external", {})
    if not figures:
        return ""
    return (
        f"<p>Of {_count(figures['images'])} photos of the set {_elsewhere_set(evaluated, params)}, "
        f"of {_count(figures['classes'])} classes whose names the network knows, "
        f"{_percent(figures['accuracy'])} are read right; balanced accuracy "
        f"{_percent(figures.get('balanced_accuracy'))}, ECE {_number(figures.get('ece'), 4)}.</p>\n"
    )


def _elsewhere_set(evaluated: Json, params: Json) -> str:
    part = _text(evaluated.get("external_part", "all photos"))
    return f"{_text(params.get('evaluate', {}).get('external_set'))} ({part})"


def _committee(evaluated: Json) -> str:
    together, alone = evaluated.get("ensemble", {}), evaluated.get("test", {})
    if not together:
        return ""
    measures = {
        "accuracy": ("accuracy", _percent),
        "balanced_accuracy": ("balanced accuracy", _percent),
        "log_loss": ("log loss", lambda value: _number(value, 4)),
        "ece": ("ECE", lambda value: _number(value, 4)),
        "ood_rejection_at_99": ("strangers refused, 99 % known", _percent),
    }
    rows = [
        [name, show(alone.get(key)), show(together[key])]
        for key, (name, show) in measures.items()
        if key in together
    ]
    if "external_accuracy" in together:
        figures = evaluated["external"]["accuracy"], together["external_accuracy"]
        rows.append(["accuracy in the other photo set", *map(_percent, figures)])
    rows.append(["networks", "1", _count(together["classifiers"])])
    rows.append(["passes through a network for one photo", "1", _count(together["passes"])])
    caption = "The mean answer of several networks or places of the photo, beside the one network"
    return html_table(caption, ["measure", "one network", "committee"], rows, {1, 2})


def _strangers(metrics: Path, evaluated: Json, params: Json) -> str:
    table = _read_table(metrics / "evaluate/ood.csv")
    if not len(table):
        return ""
    test = evaluated.get("test", {})
    text = (
        f"<p>{_percent(test.get('ood_rejection_rate'))} of {_count(test.get('ood_images'))} photos "
        f"of the set {_elsewhere_set(evaluated, params)}, of classes whose names "
        'the network has never met, are "unknown"; '
        f"{_percent(test.get('ood_rejection_at_99'))} are if 99 % of the test photos shall be "
        f"known. AUROC: {_number(test.get('ood_auroc'), 4)}, the probability that a test "
        "photo has a higher energy score than a stranger.</p>\n"
    )
    picture = html_picture(
        metrics / "evaluate/ood.png",
        "Histograms of the energy scores of test photos and of strangers",
        "Energy scores, which tell whether a photo is like those of the training, of the test "
        "photos and of the strangers. Left of the line: unknown.",
    )
    rows = [
        [name, _count(photos), _percent(refused), _number(confidence, 3), answer]
        for name, photos, refused, confidence, answer in table.itertuples(index=False)
    ]
    head = ["what it shows", "photos", "unknown", "mean confidence", "most frequent answer"]
    return text + picture + html_table("By what the photos show", head, rows, {1, 2, 3})


def _training(metrics: Path, trained: Json) -> str:
    content = html_picture(
        metrics / "train/curves.png",
        "Curves of loss, accuracy and learning rate by epoch",
        "The dotted line marks the epoch with the least validation loss (after calibration), "
        "which is deployed.",
    )
    return content + _facts("The run", trained)


def _data(metrics: Path, audit: Json, params: Json) -> str:
    content = _facts("Audit of the photo set", audit)
    if params.get("dataset") == "synthetic":
        content += _first_picture(
            metrics / "synthesize/contact_sheet",
            "Contact sheet of rendered photos of each class",
            "Examples of the rendered photos.",
        )
    content += _first_picture(
        metrics / "preprocess/duplicates",
        "Contact sheet of the largest groups of duplicates",
        "The largest groups of photos that show the same thing. A group never crosses a split.",
    )
    problems = _read_table(metrics / "preprocess/problems.csv")
    if len(problems):
        rows = [(str(r.file), str(r.problem)) for r in problems.head(SHOWN_PROBLEMS).itertuples()]
        caption = f"The first {len(rows)} of {len(problems):,}"
        content += "<h3>Problems</h3>\n" + html_table(caption, ["file", "problem"], rows)
    return content


def _classes(metrics: Path, labels: pd.DataFrame) -> pd.DataFrame:
    """One row a class: what preprocess counted and what evaluate measured."""
    table = pd.DataFrame({"class_id": labels["ClassId"], "name_": labels["Name"]})
    for stage in ("evaluate", "preprocess"):
        more = _read_table(metrics / stage / "classes.csv")
        if len(more):
            more = more[[column for column in more if column == "class_id" or column not in table]]
            table = table.merge(more.drop(columns=["name"]), on="class_id", how="left")
    return table


def _class_table(classes: pd.DataFrame) -> str:
    formats: dict[str, Callable[[Any], str]] = dict.fromkeys(COUNTS, _count)
    formats |= dict.fromkeys(["recall", "precision", "f1"], _percent)
    columns = [column for column in formats if column in classes]
    rows = [
        [str(row["class_id"]), row["name_"], *(formats[name](row[name]) for name in columns)]
        for _, row in classes.iterrows()
    ]
    caption = "Photos in each split, and how well the test photos were read"
    head = ["class", "name", *columns]
    return html_table(caption, head, rows, {0, *range(2, len(head))})


def _settings(params: Json) -> str:
    settings = {key: value for key, value in params.items() if key != "provenance"}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    provenance = _facts("Where the model comes from", params.get("provenance", {}))
    return f'{provenance}<h3>Settings</h3>\n<pre tabindex="0">{_text(text)}</pre>\n'


def _mark(good: bool, claim: str, detail: str) -> str:
    kind, sign = ("good", "✓") if good else ("bad", "✗")
    return f'<p><span class="{kind}">{sign} {_text(claim)}</span>{_text(detail)}</p>\n'


def _facts(caption: str, facts: Json) -> str:
    """A table of names and values; nested ones get the outer name in front."""
    rows: list[tuple[str, str]] = []

    def collect(mapping: Json, outer: str) -> None:
        for key, value in mapping.items():
            name = outer + str(key).replace("_", " ")
            if isinstance(value, dict):
                collect(value, f"{name}: ")
            elif isinstance(value, float):
                rows.append((name, f"{value:.6g}"))
            else:
                rows.append((name, f"{value:,}" if type(value) is int else str(value)))

    collect(facts, "")
    return html_table(caption, ["name", "value"], rows) if rows else ""


def html_table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()
) -> str:
    """HTML of a table of texts, all escaped; `numeric`: columns aligned to the right."""
    style = [' class="number"' if i in set(numeric) else "" for i in range(len(head))]
    top = "".join(f'<th scope="col"{s}>{_text(h)}</th>' for s, h in zip(style, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{s}>{_text(c)}</td>" for s, c in zip(style, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{_text(caption)}" tabindex="0">\n'
        f"<table>\n<caption>{_text(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n"
        f"<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _first_picture(stem: Path, alt: str, caption: str) -> str:
    pictures = (html_picture(stem.with_suffix(suffix), alt, caption) for suffix in KINDS)
    return next(filter(None, pictures), "")


def html_picture(path: Path, alt: str, caption: str) -> str:
    """HTML of a picture, which the page holds itself; nothing if there is no such file."""
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure>\n<img alt="{_text(alt)}" src="data:{KINDS[path.suffix]};base64,{content}">\n'
        f"<figcaption>{_text(caption)}</figcaption>\n</figure>\n"
    )


def _read_json(path: Path) -> Json:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _read_table(path: Path) -> pd.DataFrame:
    """Texts stay texts, a class may be called "None"; only empty cells of measures are NaN."""
    if not path.exists():
        return pd.DataFrame()
    empty = {
        measure: [""] for measure in ("recall", "recall_low", "recall_high", "precision", "f1")
    }
    return pd.read_csv(path, keep_default_na=False, na_values=empty)


def _text(value: object) -> str:
    return html.escape(str(value))


def _percent(share: Any) -> str:
    return ABSENT if pd.isna(share) else f"{100 * float(share):.2f}\N{NO-BREAK SPACE}%"


def _count(number: Any) -> str:
    return ABSENT if pd.isna(number) else f"{int(number):,}"


def _number(number: Any, digits: int) -> str:
    return ABSENT if pd.isna(number) else f"{float(number):,.{digits}f}"
