"""The browser page's layout: two tabs over one pipeline. What the buttons do is in `actions`.

Nothing leaves the machine: no analytics, no fonts or scripts from elsewhere, loopback unless a host is named. What a
person typed or named reaches the page as text (static/*.js), never as markup or template.
"""

import html
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these are read when gradio is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr  # noqa: E402

from demo import actions  # noqa: E402
from ovseg.errors import BadUsage, OvsegError  # noqa: E402
from ovseg.pipeline import Pipeline  # noqa: E402

HERE = Path(__file__).parent
MOST_BYTES = 64 << 20  # of an upload
WAITING = 32  # requests; who comes later is told so
VISITORS = 64  # whose last answer is kept
PORTS = 20  # tried from the first one on
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
SAY = '<p class="say" role="status"></p>'
LEGEND = '<table class="legend" aria-label="Names"></table>'


def build(pipe: Pipeline) -> gr.Blocks:
    """The page over a pipeline, ready to be launched or mounted; `look` holds its theme and styles."""
    desk = actions.Desk(pipe)
    with gr.Blocks(title="ovseg", analytics_enabled=False, fill_width=True, delete_cache=(3600, 24 * 3600)) as page:
        gr.HTML('<div class="masthead"><h1>ovseg</h1><p>Type words, get pixels.</p></div>')
        _say("model", desk.line)
        with gr.Tab("Segment"):
            _segment_tab(desk)
        with gr.Tab("Anomaly"):
            _anomaly_tab(desk)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def look() -> dict[str, Any]:
    """Theme and styles, which gradio takes when a page is launched or mounted."""
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
    soft = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}  # 7:1 on white
    soft |= {f"{name}_dark": "*neutral_400" for name in soft}
    return {
        "theme": gr.themes.Default(font=FONTS, font_mono=mono).set(**soft),
        "css": (HERE / "static/page.css").read_text(),
    }


def launch(
    pipe: Pipeline,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    block: bool = True,
    say: Callable[[str], None] | None = None,
) -> tuple[gr.Blocks, str]:
    """Serve the page until Ctrl-C, or return it with its address where `block` is False.

    A busy port moves to the next free one. `say` gets each line for the person at the keyboard
    (where there is none: the log).
    """
    say = say or logging.getLogger("ovseg").warning
    free = free_port(host, port)
    if free != port:
        say(f"port {port} is busy: taking {free}")
    if host not in ("127.0.0.1", "localhost", "::1"):
        say(f"the page listens on {host} and asks no password: everybody who reaches this machine can use it")
    page = build(pipe)
    page.launch(
        server_name=host,
        server_port=free,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=False,
        max_file_size=MOST_BYTES,
        allowed_paths=[str(HERE / "examples")],
        state_session_capacity=VISITORS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        **look(),
    )
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{free}"
    say(f"the page is at {address} (Ctrl-C ends it)")
    if block:
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    return page, address


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens on; 0 for any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except PermissionError as error:
                raise BadUsage(f"port {candidate} needs more rights: name one above 1023 (--port 7860)") from error
            except socket.gaierror as error:
                raise BadUsage(f"{host!r} is no address of this machine: {error.strerror}") from error
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise BadUsage(f"ports {port} to {port + PORTS - 1} of {host} cannot be listened on: name another with --port")


def _segment_tab(desk: actions.Desk) -> None:
    last = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = _picture("Picture")
            names = gr.Textbox(
                label="Names", lines=4, max_lines=12, placeholder="cat\ndog=dog|puppy",
                info="One a line. Several words for one thing: dog=dog|puppy",
            )  # fmt: skip
            cut = gr.Slider(
                0, 1, desk.pipe.recipe.threshold, step=0.01, label="Threshold",
                info="Pixels below it stay unlabelled. Moves without reading the picture again.",
            )  # fmt: skip
            run = gr.Button("Find", variant="primary")
            examples = _examples()
            files = [[file] for file, _ in examples]
            ready = gr.Dataset(
                label="Examples", components=["image"], samples=files, type="index", layout="gallery",
                samples_per_page=24, visible=bool(files), elem_classes=["examples"],
            )  # fmt: skip
        with gr.Column(scale=3, min_width=320):
            verdict = _say("verdict", "")
            drawn = gr.Image(
                label="Result", interactive=False, buttons=["download", "fullscreen"], alt_text="The picture, labelled"
            )
            table = gr.HTML(None, html_template=LEGEND, js_on_load=_script("legend"), apply_default_css=False)
            line = _say("quiet", "")
            with gr.Accordion("JSON", open=False):
                data = gr.JSON(show_label=False, max_height=480)
    outputs = [last, verdict, drawn, table, line, data]

    def shown(kept: actions.Labelled | None) -> tuple[Any, ...]:
        if kept is None:
            return (gr.skip(),) * len(outputs)
        words, line = _text(actions.told_in_words(kept)), _text(actions.run_line(desk, kept))
        return kept, words, actions.overlay(kept), actions.legend(kept), line, actions.as_json(kept)

    def find(
        picture: str | None,
        names: str,
        threshold: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        told = lambda stage, share: progress(share, desc=stage)  # noqa: E731
        return shown(_politely(actions.segment, desk, picture, names or "", threshold, told=told))

    def move(kept: actions.Labelled | None, threshold: float) -> tuple[Any, ...]:
        return shown(_politely(actions.at_threshold, kept, threshold))

    # values, not gr.update (as gr.Examples gives), which would replace the picture by a new one that reads files itself
    taken = ready.click(examples.__getitem__, ready, [picture, names], api_visibility="private")
    _ask([run.click, names.submit, taken.then], find, [picture, names, cut], outputs, drawn, "segment")
    _move(cut, move, last, outputs)


def _anomaly_tab(desk: actions.Desk) -> None:
    last = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = _picture("Picture to judge")
            thing = gr.Textbox(label="What it shows", placeholder="ceramic tile", max_lines=1)
            goods = gr.File(
                label="Good ones, if you have some", file_count="multiple", file_types=["image"], height=140
            )
            cut = gr.Slider(
                0, 1, 0.5, step=0.001, label="Threshold",
                info="Outlines what is stranger. Two good pictures or more set it.",
            )  # fmt: skip
            run = gr.Button("Judge", variant="primary")
        with gr.Column(scale=3, min_width=320):
            verdict = _say("verdict", "")
            drawn = gr.Image(
                label="Strangeness", interactive=False, buttons=["download", "fullscreen"],
                alt_text="The picture with a heat map of strangeness",
            )  # fmt: skip
            line = _say("quiet", "")
            with gr.Accordion("JSON", open=False):
                data = gr.JSON(show_label=False, max_height=480)
    outputs = [last, verdict, drawn, line, data]

    def shown(kept: actions.Judged | None) -> tuple[Any, ...]:
        if kept is None:
            return (gr.skip(),) * len(outputs)
        words, line = _text(actions.judged_in_words(kept)), _text(actions.run_line(desk, kept))
        return kept, words, actions.heatmap(kept), line, actions.as_json(kept)

    def judge(
        picture: str | None, thing: str, goods: list[str] | None, threshold: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        told = lambda stage, share: progress(share, desc=stage)  # noqa: E731
        kept = _politely(actions.anomaly, desk, picture, thing or "", goods, threshold, told=told)
        return *shown(kept), round(kept.map.threshold, 3)

    def move(kept: actions.Judged | None, threshold: float) -> tuple[Any, ...]:
        return shown(_politely(actions.judged_at, kept, threshold))

    _ask([run.click, thing.submit], judge, [picture, thing, goods, cut], [*outputs, cut], drawn, "anomaly")
    _move(cut, move, last, outputs)


def _ask(
    triggers: list[Any],
    action: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    drawn: gr.Image,
    name: str,
) -> None:
    """One action for several triggers, the first of them callable by name from elsewhere; one at a time uses the model.

    Where it fails the answer before is taken off the page, so that nothing stands beside an error as if it belonged.
    """
    shown = [output for output in outputs if output not in inputs]
    for number, trigger in enumerate(triggers):
        call = {"api_visibility": "private"} if number else {"api_name": name}
        event = trigger(action, inputs, outputs, show_progress_on=[drawn], concurrency_id="model", **call)
        event.failure(lambda: (None,) * len(shown), None, shown, api_visibility="private")


def _move(cut: gr.Slider, action: Callable[..., Any], last: gr.State, outputs: list[Any]) -> None:
    """The threshold's slider asks again of what is kept when it is let go."""
    given = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
    cut.release(action, [last, cut], outputs, **given)


def _politely(action: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """The action's answer; an error of ours becomes its one sentence on the page, as text."""
    try:
        return action(*given, **named)
    except OvsegError as error:
        raise gr.Error(html.escape(str(error)), title="", duration=12, print_exception=False) from error


def _picture(label: str) -> gr.Image:
    """A place for a picture whose file comes to us as it is: `images.read` opens it, turns it, says what is wrong."""
    place = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=320)
    place.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
    return place


def _say(name: str, value: str) -> gr.HTML:
    """A line of plain text whose template never changes, so that nothing in the text can become code."""
    return gr.HTML(
        _text(value), html_template=SAY, js_on_load=_script("say"), apply_default_css=False, elem_classes=["said", name]
    )


def _text(value: str) -> dict[str, str]:
    """What `say.js` takes: gradio would look for tags in a bare text."""
    return {"text": value}


def _script(name: str) -> str:
    return (HERE / "static" / f"{name}.js").read_text(encoding="utf-8")


def _examples() -> list[list[str]]:
    """Pictures that ship with the page, each with its names, one a line."""
    table = HERE / "examples" / "examples.json"
    if not table.is_file():
        return []
    rows = json.loads(table.read_text(encoding="utf-8"))
    names = ["\n".join([*row["prompts"], *row.get("absent", [])]) for row in rows]
    return [[str(HERE / "examples" / row["file"]), text] for row, text in zip(rows, names, strict=True)]


__all__ = ["build", "free_port", "launch", "look"]
