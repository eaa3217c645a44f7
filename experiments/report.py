"""Build runs/demo/report.html (self-contained) and report.json from what the stages of a run left behind.

    python -m experiments.report --run runs/demo

A stage leaves `stages/<name>.json` (seconds, result), its metrics as JSON lines and its pictures; nothing is computed here
that the numbers in those files do not say.
"""

import argparse
import base64
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments import charts

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "mujoco", "mujoco-mjx", "numpy")
NAMES = {
    "clamp": "CLAMP",
    "policy_pretrained": "policy pre-trained",
    "scratch": "from scratch",
    "blind": "blind",
    "hold_still": "hold still",
}
MEANINGS = {
    "clamp": "policy from the pre-trained weights, with the frozen encoders' image and action embeddings",
    "policy_pretrained": "the policy alone was pre-trained on the same data; no embeddings",
    "scratch": "the policy begins with fresh weights; no embeddings",
    "blind": "trained in the same way with images, clouds and embeddings zeroed",
    "hold_still": "repeats the last command",
}
COLOURS = dict(zip(("clamp", "policy_pretrained", "scratch", "blind", "hold_still"), charts.PALETTE, strict=False))
PAIRS = {"image_text": "image to text", "text_action": "text to action", "image_action": "image to action"}


def read_stages(run: Path) -> dict[str, dict[str, Any]]:
    """What each finished stage wrote, by name in the order in which they finished; ValueError when there is none."""
    files = sorted((run / "stages").glob("*.json"), key=lambda path: json.loads(path.read_text())["finished"])
    if not files:
        raise ValueError(f"{run} holds no finished stage (stages/*.json); run python -m experiments.demo --out {run}")
    return {path.stem: json.loads(path.read_text()) for path in files}


def versions() -> dict[str, str]:
    """Python and the packages that decide about numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def collect(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of report.json; a stage that did not run leaves its part empty."""
    result = {name: stage["result"] for name, stage in stages.items()}
    robot = result.get("robot", {})
    return {
        "size": result.get("settings", {}).get("size"),
        "stages": {name: stage["seconds"] for name, stage in stages.items() if name not in ("settings", "pictures_only")},
        "success": result.get("evaluate", {}).get("success", {}),
        "evaluation": {key: value for key, value in result.get("evaluate", {}).items() if key != "success"},
        "retrieval": result.get("retrieval", {}).get("pairs", {}),
        "latency_ms": robot.get("latency_ms", {}),
        "robot_episode": robot.get("robot_episode", {}),
        "export": result.get("export", {}),
        "versions": versions(),
        "machine": {"cpus": os.cpu_count(), "system": platform.system(), "processor": platform.machine()},
    }


def write_whole(path: Path, text: str) -> Path:
    """Write a file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
    return path


def build(run: Path) -> dict[str, Any]:
    """Write report.json and report.html into the run's folder and return the numbers."""
    stages = read_stages(run)
    report = collect(stages)
    write_whole(run / "report.json", json.dumps(report, indent=2) + "\n")
    write_whole(run / "report.html", page(run, report, stages))
    return report


# ---- the page -----------------------------------------------------------------------------------------------------------


def page(run: Path, report: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page as HTML without one external link."""
    body = [
        _head(report, stages),
        _sight(run, stages.get("pictures", {}).get("result", {})),
        _training(run, stages),
        _retrieval(report),
        _success(report),
        _film(run),
        _deployment(report),
        _notes(report),
        _tables(report),
    ]
    style = (Path(__file__).with_name("report.css")).read_text()
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>CLAMP demo</title><style>{style}</style><main>{''.join(body)}</main></html>\n"
    )


def _head(report: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> str:
    settings = stages.get("settings", {}).get("result", {})
    total = sum(report["stages"].values())
    tiles = [_tile(NAMES[name], _share(report["success"].get(name)), "trials solved") for name in ("clamp", "hold_still")]
    pair = report["retrieval"].get("image_text")
    if pair:
        tiles.append(_tile("image to text", f"{pair['top1']:.0%}", f"top-1 of {pool_size(pair)}, chance {pair['chance']:.1%}"))
    if report["latency_ms"]:
        p50, p99 = (report["latency_ms"][key] for key in ("p50", "p99"))
        tiles.append(_tile("policy call", f"{p50:.0f} ms", f"p50 through the server, p99 {p99:.0f} ms"))
    tiles.append(_tile("whole run", f"{total / 60:.1f} min", f"{report['machine']['cpus']} cores, {report['machine']['processor']}"))
    lead = (
        "3D contrastive pre-training of image, action and text encoders on simulated demonstrations, then a diffusion policy "
        f"fine-tuned on a task that pre-training did not see: <b>{escape(str(settings.get('finetune_task', '')))}</b>."
    )
    title = f"<p class=kicker>CLAMP in JAX · {escape(str(report['size']))} demo</p><h1>From RGB-D cameras to a moving robot</h1>"
    return f"<header>{title}<p>{lead}</p><div class=tiles>{''.join(tiles)}</div></header>"


def _tile(name: str, value: str, note: str) -> str:
    return f"<div class=tile><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>"


def _share(entry: Mapping[str, Any] | None) -> str:
    return f"{entry['successes'] / entry['trials']:.0%}" if entry else "–"


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{text}</p>{content}</section>"


def _figure(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f"<img alt='{escape(caption, quote=True)}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


CAPTIONS = {
    "cameras.png": "The four cameras (overhead, worm's-eye, left and right wrist): colour above, depth below; dark is no measurement. "
    "Drawn sharper than the policy gets them: {cameras} pixels.",
    "cloud.png": "Their depth, unprojected with the extrinsics and merged into one cloud.",
    "views.png": "The cloud as the image encoder reads it: splatted into five views of {views} pixels (overhead, back right, front left, "
    "left and right wrist), depth above, world x, y, z as red, green, blue below.",
}


def _sight(run: Path, drawn: Mapping[str, Any]) -> str:
    sizes = {short: " x ".join(map(str, drawn.get(key, ("?",)))) for short, key in (("cameras", "camera_size"), ("views", "view_size"))}
    figures = [_figure(run / "pictures" / name, caption.format(**sizes)) for name, caption in CAPTIONS.items()]
    if not any(figures):
        return ""
    text = (
        "A stored demonstration is a state, not an image: such pictures are ray cast from it inside the training step, "
        "with fresh noise and colours each time."
    )
    return _section("What the cameras and the network see", text, "".join(figures))


def _training(run: Path, stages: Mapping[str, Mapping[str, Any]]) -> str:
    paths = {name: stage["result"]["metrics"] for name, stage in stages.items() if "metrics" in stage["result"]}
    logs = {name: read_metrics(run / path) for name, path in paths.items()}
    drawn = [
        _pair_losses(logs),
        _diffusion_losses(logs, "pretrain", "Pre-training: diffusion loss"),
        _diffusion_losses(logs, "finetune", "Fine-tuning: diffusion loss"),
    ]
    drawn = [chart for chart in drawn if chart]
    if not drawn:
        return ""
    text = "Faint: each logged step; strong: running mean. The axis ends at the 99th percentile."
    return _section("Training", text, f"<div class=charts>{''.join(f'<figure>{chart}</figure>' for chart in drawn)}</div>")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a half-written last line is left out, a missing file is empty."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _series(lines: Sequence[Mapping[str, float]], key: str) -> charts.Series:
    kept = [line for line in lines if isinstance(line.get(key), int | float)]
    return [line["step"] for line in kept], [line[key] for line in kept]


def _pair_losses(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    series = {PAIRS[pair]: _series(logs.get("pretrain_clamp", []), f"loss/{pair}") for pair in PAIRS}
    series = {name: xy for name, xy in series.items() if xy[0]}
    return charts.line_chart(series, title="Pre-training: sigmoid loss of the three pairs", x_label="step") if series else ""


def _diffusion_losses(logs: Mapping[str, Sequence[Mapping[str, float]]], stage: str, title: str) -> str:
    series = {}
    for name, lines in logs.items():
        if name.startswith(stage + "_"):
            kind = name.removeprefix(stage + "_")
            series[NAMES.get(kind, kind)] = _series(lines, "loss/diffusion")
    series = {name: xy for name, xy in series.items() if xy[0]}
    colours = {NAMES[kind]: colour for kind, colour in COLOURS.items()}
    return charts.line_chart(series, title=title, x_label="step", colours=colours) if series else ""


def _retrieval(report: Mapping[str, Any]) -> str:
    if not report["retrieval"]:
        return ""
    groups, kinds = {}, {"top1": "as it is", "top1_permuted": "positions permuted"}
    for pair, entry in report["retrieval"].items():
        shown = kinds if "text" in pair else {"top1": kinds["top1"]}  # a pair without text does not see the permutation
        groups[PAIRS.get(pair, pair)] = {label: entry[key] for key, label in shown.items()}
    first = next(iter(report["retrieval"].values()))
    chance = first["chance"]
    text = (
        f"Pools of {pool_size(first)} held-out trajectories of one task, one frame of each at about the same progress: is the right "
        "partner the nearest? Permuting the positions in the text takes away what tells the scenes apart."
    )
    chart = charts.grouped_bars(groups, title="Top-1 accuracy", line=(f"chance {chance:.1%}", chance))
    return _section("Retrieval", text, f"<figure>{chart}</figure>")


def pool_size(entry: Mapping[str, float]) -> int:
    """Trajectories in a retrieval pool, of its chance."""
    return round(1 / entry["chance"])


def success_bars(success: Mapping[str, Mapping[str, Any]]) -> str:
    """Bars of the policies' success with their Wilson 95 % intervals."""
    rows, names = [], [n for n in NAMES if n in success] + [n for n in success if n not in NAMES]
    for name in names:
        entry = success[name]
        value = entry["successes"] / entry["trials"]
        note = f"{entry['successes']}/{entry['trials']}  {value:.0%}  ({entry['low']:.0%} to {entry['high']:.0%})"
        rows.append(charts.Bar(NAMES.get(name, name), value, entry["low"], entry["high"], note))
    return charts.bars(rows, title="Success, with Wilson 95 % intervals", colours=[COLOURS.get(name, charts.FAINT) for name in names])


def _success(report: Mapping[str, Any]) -> str:
    if not report["success"]:
        return ""
    about = report["evaluation"]
    task, backend = escape(str(about.get("task", "?"))), escape(str(about.get("backend", "?")))
    text = (
        f"Closed loop on {task} from the same initial states for every policy; physics: {backend}; at most "
        f"{about.get('limit_s', 0):.0f} s, a new observation every {about.get('replan', '?')} commands of 0.02 s."
    )
    rows = [(NAMES.get(name, name), MEANINGS.get(name, "")) for name in NAMES if name in report["success"]]
    return _section("Does it work?", text, f"<figure>{success_bars(report['success'])}</figure>{_table(rows)}")


def _film(run: Path) -> str:
    path = run / "rollout.mp4"
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    video = f"<video controls autoplay loop muted playsinline src='data:video/mp4;base64,{data}'></video>"
    text = "Ray cast by this project's own sensors. A green frame: the trial has succeeded."
    return _section("A few trials of the CLAMP policy", text, f"<figure>{video}</figure>")


def _deployment(report: Mapping[str, Any]) -> str:
    latency, episode, export = report["latency_ms"], report["robot_episode"], report["export"]
    if not latency and not export:
        return ""
    rows = []
    if export:
        rows.append(("exported policy against the one in memory", f"largest difference {export.get('difference', float('nan')):.1e}"))
    if latency:
        rows.append(("policy call through the websocket", f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"))
    if episode:
        rows.append(("episode on the simulated robot", "completed" if episode.get("completed") else "not completed"))
        rows.append(("missed deadlines", str(episode.get("missed_deadlines"))))
        when = episode.get("succeeded_at_s")
        rows.append(("task done", f"after {when:.1f} s" if when is not None else "no"))
    text = (
        "The artifact is served over a websocket; the robot is a process of its own that runs in real time and talks to the "
        "server through the client alone."
    )
    return _section("Deployment", text, _table(rows))


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader should know before believing the numbers, as they came out."""
    weak = [PAIRS.get(pair, pair) for pair, entry in report["retrieval"].items() if entry["top1"] < 4 * entry["chance"]]
    found = _compared(report["success"]) + [f"Retrieval, {pair}: under four times chance." for pair in weak]
    if report["evaluation"].get("fallback"):
        found.append(str(report["evaluation"]["fallback"]))
    found.append("One seed for each policy: the intervals say how much the trials vary, not how much a second training would.")
    found.append("Networks, images and data are far smaller than the paper's, the objects are primitives, and the sensors are simulated.")
    return found


def _compared(success: Mapping[str, Mapping[str, Any]]) -> list[str]:
    clamp, blind = success.get("clamp"), success.get("blind")
    others = [name for name in success if name != "clamp"]
    found = [f"CLAMP {_against(clamp, success[name])} {NAMES.get(name, name)}." for name in others] if clamp else []
    if blind and blind["successes"] / blind["trials"] >= 0.3:
        found.append("Blind solves 30 % or more: the initial states vary too little for this task to need eyes.")
    return found


def _against(clamp: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if clamp["low"] > other["high"]:
        return "beats, with intervals apart,"
    return "is beaten, with intervals apart, by" if clamp["high"] < other["low"] else "is not told apart by this many trials from"


def _notes(report: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes(report))
    return _section("How far to believe this", "", f"<ul>{items}</ul>")


def _tables(report: Mapping[str, Any]) -> str:
    stages = [(name, f"{seconds:.0f} s") for name, seconds in report["stages"].items()]
    stages.append(("together", f"{sum(report['stages'].values()):.0f} s"))
    versions_ = _table(list(report["versions"].items()))
    return f"<section class=two><div><h2>Stages</h2>{_table(stages)}</div><div><h2>Versions</h2>{versions_}</div></section>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows) + "</table>"


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild the report of a run."""
    parser = argparse.ArgumentParser(description="Build report.html and report.json from a run's folder.")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    run = parser.parse_args(argv).run
    try:
        build(run)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(f"wrote {run / 'report.html'} and {run / 'report.json'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
